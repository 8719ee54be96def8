"""What is trained and shipped: the families, their bodies, their folders."""
