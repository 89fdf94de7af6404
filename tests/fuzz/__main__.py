"""``python -m tests.fuzz --count 20000``: try many inputs, and tell what they found."""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
from collections.abc import Iterator

from tests.fuzz.driver import findings
from tests.fuzz.formats import FORMATS


def main() -> int:
    """Try them, and print each finding with the command that shows it again."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0, help="of the first one")
    parser.add_argument("--format", choices=sorted(FORMATS), nargs="+", default=sorted(FORMATS))
    chosen = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    tried: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    began = time.monotonic()

    def inputs() -> Iterator[tuple[str, int]]:
        for i in range(chosen.count):
            name = chosen.format[i % len(chosen.format)]
            tried[name] += 1
            if i % 200 == 199:
                spent = time.monotonic() - began
                print(f"{i + 1} of {chosen.count}, {spent:.0f} s", file=sys.stderr, flush=True)
            yield name, chosen.seed + i // len(chosen.format)

    with tempfile.TemporaryDirectory(prefix="laplm-fuzz-home-") as home:
        os.environ["LAPLM_HOME"] = os.environ["HF_HOME"] = home
        for found in findings(inputs()):
            kinds[f"{found.format}: {found.what[:60]}"] += 1
            print(f"{found.what}\n    python -m tests.fuzz --format {found.format} "
                  f"--seed {found.seed} --count 1", flush=True)  # fmt: skip
    print(f"{sum(tried.values())} inputs, {sum(kinds.values())} findings of {len(kinds)} kinds")
    for kind, count in kinds.most_common():
        print(f"  {count:5}  {kind}")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
