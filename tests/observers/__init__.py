"""The ready-made observers. Those that need an optional library are skipped where it is not installed."""
