"""MEHAML: the template of which HASAC is one instance (Liu et al., ICLR 2024)."""
