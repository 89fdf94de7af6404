"""The fast path: packed weights, the key/value cache and compiled kernels."""
