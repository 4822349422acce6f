"""Helpers for every package: files, locks, memory, numerics, child processes."""
