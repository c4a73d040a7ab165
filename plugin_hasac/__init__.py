"""HASAC for PyMARL-family frameworks."""

__version__ = "0.1.0"
