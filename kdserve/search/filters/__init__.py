"""Filters over metadata, as an expression and as SQL."""
