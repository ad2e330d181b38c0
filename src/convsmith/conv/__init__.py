"""Convolution: one problem, many algorithms, the fastest one for this shape on this machine."""
