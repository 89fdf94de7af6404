"""Learning: the only room that imports torch, which the ``tune`` extra brings."""
