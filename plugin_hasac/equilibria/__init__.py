"""Exact solutions of games small enough to enumerate."""
