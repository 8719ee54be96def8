"""What a student learns from: models and their vectors or labels, each computed once."""
