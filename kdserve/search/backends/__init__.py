"""Rows of vectors and what finds the nearest of them: exact search, FAISS, the kinds of index."""
