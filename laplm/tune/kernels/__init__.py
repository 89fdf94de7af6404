"""Compiled kernels for training on a CPU, and the same in torch."""
