"""``python -m laplm`` and the ``laplm`` command."""

import os
import sys
import warnings


def main() -> None:
    """Run the command line and exit with its code."""
    _reopen_closed_streams()
    if not sys.warnoptions:  # -W, or PYTHONWARNINGS
        # They show lines of source to somebody who asked for a text; what matters is an error.
        warnings.simplefilter("ignore")
    try:
        from laplm.cli import main as run

        code = run()
    except KeyboardInterrupt:  # while the modules were still being imported
        code = 130
    sys.exit(code)


def _reopen_closed_streams() -> None:
    """Open something in place of standard streams that are closed, as in ``laplm models >&-``.

    The next file that is opened would get their number else, and what a library prints would go
    into it. It can only be read, so that writing to it still fails.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)


if __name__ == "__main__":
    main()
