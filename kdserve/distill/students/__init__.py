"""Students: the families, their bodies, their folders."""
