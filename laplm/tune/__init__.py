"""Training, and what belongs to it: the only room that is built on torch (extra: tune)."""
