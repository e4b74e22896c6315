"""Readers of the outside world, one file a system, all over one transport."""
