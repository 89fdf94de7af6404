"""``python -m laplm`` and the ``laplm`` command."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from laplm.cli import main as run

        code = run()
    except KeyboardInterrupt:  # while the modules were still being imported
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
