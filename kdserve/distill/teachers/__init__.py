"""Teachers: models, and their vectors or labels, each computed once."""
