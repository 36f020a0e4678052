"""Decisions as pure functions: nothing here waits, stores or asks."""
