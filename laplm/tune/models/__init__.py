"""The models that are trained, in torch."""
