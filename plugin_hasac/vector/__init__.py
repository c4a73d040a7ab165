"""Vectorised stepping of envs."""
