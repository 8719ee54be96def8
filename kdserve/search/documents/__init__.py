"""Documents in: from files, tables or a caller, split into passages and embedded."""
