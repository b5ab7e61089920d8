"""Tests of single modules, most of them without a process."""
