"""Damaged and hostile inputs of every kind that laplm opens, made by chance from good ones.

``python -m tests.fuzz --count 20000`` tries many; ``test_fuzz.py`` tries 300 with fixed seeds.
``formats.py`` has one entry for each kind of file, ``mutate.py`` what is done to them,
``worker.py`` opens them in a process with limits, ``driver.py`` watches that process and starts
it again.
"""
