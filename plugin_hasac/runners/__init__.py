"""Collecting experience in a host's loop."""
