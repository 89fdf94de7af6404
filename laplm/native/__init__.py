"""Python to machine code: what the engine and training compile and run their loops with."""
