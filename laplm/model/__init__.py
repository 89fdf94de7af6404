"""Text to tokens to logits: the model itself. Uses NumPy and llvmlite, never torch."""
