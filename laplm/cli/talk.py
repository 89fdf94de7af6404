"""``laplm talk``: the notebooks in JupyterLab, or as slides."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from laplm.cli.arguments import AddCommand
from laplm.cli.output import note, write
from laplm.cli.progress import progress_bars

_DIRECTORY = "laplm-talk"


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command(
        "talk", run, example="laplm talk --slides -m gpt2",
        epilog="Notebooks that are in DIR "
        "already stay as they are; delete one to get it afresh. In the slides, S opens the "
        "speaker's notes, C the code, and D makes them dark or light.",
    )  # fmt: skip
    p.add_argument(
        "directory", nargs="?", type=Path, default=Path(_DIRECTORY), metavar="DIR",
        help=f"where your copy of the notebooks goes (default: {_DIRECTORY})",
    )  # fmt: skip
    p.add_argument(
        "--slides", action="store_true",
        help="run the notebooks and make slides of them, in DIR/slides; takes a minute or two",
    )  # fmt: skip
    p.add_argument(
        "--pdf", action="store_true",
        help="print the slides to DIR/slides/talk.pdf as well, by the Chromium, Chrome, Edge or "
        "Brave that is here",
    )  # fmt: skip
    p.add_argument("--speaker", default="", metavar="NAME", help="who gives it: on the first slide")
    p.add_argument(
        "--date", default="", metavar="TEXT",
        help="when it is given: on the first slide, as you write it (default: today)",
    )  # fmt: skip
    p.add_argument("--no-open", "--no-browser", action="store_true", help="open no browser")
    p.add_argument(
        "-m", "--model", metavar="NAME|DIR",
        help="the model to talk about (default: LAPLM_MODEL, else pocket, the built-in one)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from laplm.hub import locate
    from laplm.talk import notebooks, pdf, slides

    make_slides = args.slides or args.pdf
    slides.require() if make_slides else notebooks.require()
    browser = pdf.find_browser() if args.pdf else ""  # before minutes are spent
    # Notebooks run in their own directory, so a directory is named by its whole path.
    model = args.model or os.environ.get("LAPLM_MODEL") or "pocket"
    path = locate.locate(model)
    if Path(model).is_dir() and path.samefile(model):  # and not a name that a directory has too
        model = str(path.resolve())
    copies = notebooks.copy_to(args.directory)
    occasion = {"speaker": args.speaker, "date": args.date}
    if not make_slides:
        note(f"the notebooks are in {args.directory}; Ctrl-C ends JupyterLab")
        notebooks.open_lab(args.directory, model, browser=not args.no_open, **occasion)
        return 0
    with progress_bars() as progress:
        index = slides.build_slides(copies, args.directory / "slides", model, progress, **occasion)
    write(f"{index}\n")
    if args.pdf:
        handout = index.with_name("talk.pdf")
        pdf.print_slides(index, handout, browser)
        write(f"{handout}\n")
    if not args.no_open:
        import webbrowser

        webbrowser.open(index.resolve().as_uri())
    return 0
