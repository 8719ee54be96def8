"""Texts in: pairs, labelled texts, the corpus on disk, vocabulary, tokens, and the batches made of them."""
