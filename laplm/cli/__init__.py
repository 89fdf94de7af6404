"""The command line: parse, call one room's function, print.

Exit codes: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C. Rooms are imported by
the verb that needs them, so that ``--help`` is instant. argparse, because the libraries that build
on it take longer to import than a whole short answer takes.
"""

from laplm.cli.main import main

__all__ = ["main"]
