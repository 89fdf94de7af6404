"""What happens inside: every stage between text and the next token, as arrays and pictures.

Each function takes a model (``laplm.load(...)``) and gives a ``View``: an object with the arrays,
``.table()`` and ``.plot()``. NumPy alone; pictures need the "look" extra (matplotlib).
"""
