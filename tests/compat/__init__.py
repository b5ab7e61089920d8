"""Libraries that take an executor or a map, with ours; each test is skipped where its library is not installed."""
