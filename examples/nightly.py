"""Tune a model on a folder of notes, but only when something in it has changed.

    python nightly.py NOTES OUT [MODEL]

For cron: `30 2 * * * /path/to/.venv/bin/python nightly.py ~/notes ~/tuned`. OUT/current names the
newest model; a run that fails or is stopped leaves the one before it in place.
"""

import hashlib
import math
import sys
from datetime import datetime
from pathlib import Path

import laplm
from laplm.errors import LaplmError
from laplm.tune.tuning import TuneConfig

notes, out = Path(sys.argv[1]), Path(sys.argv[2])
model = sys.argv[3] if len(sys.argv) > 3 else "pocket"

seen = hashlib.sha256()
for path in sorted(notes.rglob("*.txt")):
    seen.update(str(path.relative_to(notes)).encode() + b"\0" + path.read_bytes() + b"\0")
out.mkdir(parents=True, exist_ok=True)
stamp = out / "seen"
if stamp.exists() and stamp.read_text() == seen.hexdigest():
    print("nothing has changed since the last run")
    sys.exit()

directory = out / datetime.now().strftime("%Y-%m-%d-%H%M%S")
try:
    result = laplm.tune(notes, laplm.load(model), directory, TuneConfig(method="lora", patience=3))
except LaplmError as error:  # one plain line: too little text, no room on the disk, ...
    sys.exit(f"not tuned: {error}")
(out / "current").write_text(f"{directory.name}\n", encoding="utf-8")
stamp.write_text(seen.hexdigest())
print(
    f"held-out perplexity {math.exp(result.loss_before):.1f} before, "
    f"{math.exp(result.loss_after):.1f} after; try it: laplm run -m {directory}"
)
