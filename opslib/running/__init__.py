"""Notebook sessions, headless runs."""
