"""The forward pass, compiled: a file for each step of ``reference.py``."""
