"""``laplm serve``: an OpenAI-compatible server, and the page."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from laplm.cli.arguments import AddCommand, add_context, note_model
from laplm.cli.output import note
from laplm.cli.progress import progress_bars
from laplm.errors import InputError, one_of

_PORT = 8080


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command(
        "serve", run, example="laplm serve gpt2 tales=./mine",
        epilog="Then, say: curl localhost:8080/v1/completions -H 'Content-Type: application/json' "
        "-d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 40}'",
    )  # fmt: skip
    p.add_argument(
        "models", nargs="*", metavar="MODEL",
        help="a name, a directory, or NAME=DIRECTORY; the first answers where none is named. "
        "Models on disk can be asked for by name without being listed here (default: gpt2 when "
        "it is on disk, else pocket)",
    )  # fmt: skip
    g = p.add_argument_group("where it listens")
    g.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="another than this machine's own needs --api-key (default: 127.0.0.1)",
    )  # fmt: skip
    g.add_argument("--port", type=int, default=_PORT, metavar="N",
                   help=f"0: any free one (default: {_PORT})")  # fmt: skip
    g.add_argument(
        "--api-key", metavar="KEY", help="wanted of every request (default: LAPLM_API_KEY, if set)"
    )
    g.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a name that this server is reached by, as in NAME:8080; may be given several times",
    )  # fmt: skip
    g.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN",
        help="let pages of https://ORIGIN use it; may be given several times",
    )  # fmt: skip
    g.add_argument("--open", action=argparse.BooleanOptionalAction, default=None,
                   help="open the page in a browser (default: when there is one)")  # fmt: skip
    g.add_argument("--no-browser", action="store_false", dest="open", help="the same as --no-open")
    g = p.add_argument_group("the models")
    g.add_argument("--precision", metavar="KIND",
                   help="of text: fp32, stored, int8 or int4 (default: int8; "
                   "stored for a quantised file)")  # fmt: skip
    g.add_argument("--look-precision", default="fp32", metavar="KIND",
                   help="of views (default: fp32, as for laplm look)")  # fmt: skip
    g.add_argument("--threads", type=int, metavar="N", help="threads (default: one per core)")
    add_context(g)
    g.add_argument("--keep", type=int, default=3, metavar="N",
                   help="models in memory at most (default: 3)")  # fmt: skip
    g.add_argument("--slots", type=int, default=16, metavar="N",
                   help="texts of a model written at the same time (default: 16)")  # fmt: skip
    g.add_argument("--queue", type=int, default=64, metavar="N",
                   help="requests of a model that may wait (default: 64)")  # fmt: skip
    g.add_argument("--time-limit", type=float, default=600.0, metavar="SECONDS",
                   help="for one request (default: 600)")  # fmt: skip
    g.add_argument("--strict", action="store_true",
                   help="refuse what OpenAI refuses: more tokens than the model has room for, and "
                   "more than four stop strings")  # fmt: skip
    g.add_argument("--runs", type=Path, metavar="DIR",
                   help="where tunings are kept (default: runs, in LAPLM_HOME)")  # fmt: skip
    g.add_argument(
        "--allow-pull", action="store_true",
        help="let the page download models, as laplm pull does (default: it downloads nothing)",
    )  # fmt: skip
    g = p.add_argument_group("how it runs")
    g.add_argument("--grace", type=float, default=10.0, metavar="SECONDS",
                   help="for requests on their way when it is stopped (default: 10)")  # fmt: skip
    g.add_argument("--quiet", action="store_true", help="log only what goes wrong")
    g.add_argument(
        "--log-prompts", action="store_true",
        help="log requests for text and views with what they ask (default: logs hold no prompt)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    key = args.api_key if args.api_key is not None else os.environ.get("LAPLM_API_KEY")
    _check(args, key)
    from laplm.run.language_model import default_model
    from laplm.serve import logs
    from laplm.serve.app import ServerOptions
    from laplm.serve.models import ServingSettings, given_models
    from laplm.serve.security import AccessPolicy
    from laplm.serve.server import LOOPBACK, serve

    given = given_models(args.models)
    if given:
        default = next(iter(given))
    else:
        default, why = default_model()
        note_model(default, why)
    away = args.host not in LOOPBACK
    names = {name.lower() for name in args.allow_host} | ({args.host.lower()} if away else set())
    options = ServerOptions(
        given=given or {default: default},
        default=default,
        settings=ServingSettings(
            precision=args.precision,
            look_precision=args.look_precision,
            threads=args.threads,
            context=args.context,
            keep=args.keep,
            slots=args.slots,
            queue=args.queue,
            time_limit=args.time_limit,
            strict=args.strict,
        ),
        policy=AccessPolicy(
            key=key,
            names=frozenset(names),
            anywhere=away,
            origins=frozenset(origin.rstrip("/") for origin in args.allow_origin),
        ),
        runs=args.runs,
        log_prompts=args.log_prompts,
        allow_pull=args.allow_pull,
    )
    logs.set_up(quiet=args.quiet)

    def ready(address: str) -> None:
        progress.close()
        page = f"{address}?key=..." if key else address
        note(f"the page: {page}  OpenAI's API: {address}v1  Ctrl-C stops")

    with progress_bars() as progress:
        serve(
            options,
            args.host,
            args.port,
            grace=args.grace,
            open_page=_has_browser() if args.open is None else args.open,
            ready=ready,
            progress=progress,
        )
    return 0


def _check(args: argparse.Namespace, key: str | None) -> None:
    from laplm.model.engine.quantize import PRECISIONS

    if not 0 <= args.port <= 65535:
        raise InputError(f"--port is {args.port}, but it must be between 0 and 65535")
    for name, least, most in (("keep", 1, 100), ("slots", 1, 192), ("queue", 1, 10_000)):
        if not least <= getattr(args, name) <= most:
            raise InputError(
                f"--{name} is {getattr(args, name)}, but it must be between {least} and {most:,}"
            )
    if not 0 < args.time_limit < 1e9:
        raise InputError(f"--time-limit is {args.time_limit}, but it must be above 0")
    if not 0 <= args.grace < 1e6:
        raise InputError(f"--grace is {args.grace}, but it must be 0 or more")
    for name in ("precision", "look_precision"):
        if getattr(args, name) not in (*PRECISIONS, None):
            raise InputError(
                f"--{name.replace('_', '-')} is {getattr(args, name)!r}, but it must be "
                f"{one_of(PRECISIONS)}"
            )
    if args.quiet and args.log_prompts:
        raise InputError("--quiet logs no requests, so --log-prompts would do nothing; drop one")
    if key is not None and (len(key) < 8 or not key.isascii() or not key.isprintable()):
        raise InputError("the API key must have at least 8 characters of ASCII")
    if args.host not in ("127.0.0.1", "::1", "localhost") and key is None:
        raise InputError(
            f"--host {args.host} lets other machines in, so it needs a key: add --api-key KEY, or "
            "set LAPLM_API_KEY"
        )


def _has_browser() -> bool:
    """Whether somebody sits at this machine with a terminal and a display."""
    if not (sys.stderr.isatty() and sys.stdin.isatty()):
        return False
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
