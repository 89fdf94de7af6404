"""How the things in the package that were made, not written, were made."""
