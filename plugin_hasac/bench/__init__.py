"""Suites of runs, and tables and figures of their results."""
