from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from metrics_file import write_metrics
from PIL import Image

from laplm.tune.loss_curve import draw_loss_curve


def test_the_picture_shows_both_losses_and_says_what_they_are(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl")
    png, svg = tmp_path / "curve.png", tmp_path / "curve.svg"
    draw_loss_curve(metrics, [png, svg], "pocket: a test")
    texts = [e.text or "" for e in ElementTree.parse(svg).iter() if e.tag.endswith("text")]
    for text in ("pocket: a test", "nats per token", "bits per byte", "step"):
        assert any(text in t for t in texts), text
    assert f"{(2 + 6 * math.exp(-5)) / 3:.3f}" in texts  # the last value
    pixels = np.asarray(Image.open(png).convert("RGB")).reshape(-1, 3)
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
        assert (pixels == colour).all(axis=1).sum() > 500
    assert not list(tmp_path.glob("*.tmp"))


def test_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl")
    files = [tmp_path / name for name in ("a.svg", "b.svg", "a.png", "b.png")]
    draw_loss_curve(metrics, files[:1] + files[2:3], "pocket")
    draw_loss_curve(metrics, files[1:2] + files[3:], "pocket")
    a_svg, b_svg, a_png, b_png = (file.read_bytes() for file in files)
    assert a_svg == b_svg
    assert a_png == b_png


def test_a_run_of_one_measurement_can_be_drawn(tmp_path: Path) -> None:
    draw_loss_curve(write_metrics(tmp_path / "m.jsonl", 10), [tmp_path / "c.png"], "pocket")
    assert Image.open(tmp_path / "c.png").size == (1200, 900)
