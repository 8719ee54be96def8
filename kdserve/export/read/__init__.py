"""A folder in: configuration and weights as arrays, one file a family."""
