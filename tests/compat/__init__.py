"""Libraries that take an executor or a map, used with a manager; skipped where the library is not installed."""
