"""From students that write to verified bundles: an encoder, a decoder's step, one file of weights."""
