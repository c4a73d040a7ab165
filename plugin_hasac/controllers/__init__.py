"""Multi-agent controllers (MACs)."""
