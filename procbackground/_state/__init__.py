"""Decisions only: no thread, clock, pipe or log line below this package."""
