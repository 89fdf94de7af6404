"""The built-in model's checksums, and its card's first paragraph."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import laplm
from laplm import built_in
from laplm.errors import ModelFormatError, ModelNotFoundError
from laplm.hub import locate, pull


def sealed(directory: Path, contents: list[bytes]) -> Path:
    """A directory of the built-in model's files with these contents, and their checksums."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in zip(built_in.FILES, contents, strict=True):
        (directory / name).write_bytes(content)
    (directory / built_in.CHECKSUMS).write_text(built_in.checksums(directory))
    return directory


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return sealed(tmp_path / "small", [b"{}", bytes(range(200)), b'{"a": 1}', b"{ }"])


@pytest.fixture
def pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the built-in model that takes its place."""
    copy = tmp_path / "pocket"
    shutil.copytree(built_in.DIRECTORY, copy)
    monkeypatch.setattr(built_in, "DIRECTORY", copy)
    return copy


def flip(path: Path, bit: int) -> None:
    """Flip one bit and keep the time: a damaged disk does not tell."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# --- checksums --------------------------------------------------------------------------------


def test_the_files_in_the_package_match_their_checksums() -> None:
    built_in.check()
    assert Path(laplm.__file__).parent / "pocket" == built_in.DIRECTORY


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_reads_the_checksums_and_agrees() -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", built_in.CHECKSUMS],
        cwd=built_in.DIRECTORY, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"{name}: OK\n" for name in built_in.FILES)


def test_every_file_but_the_card_has_a_checksum() -> None:
    rest = {path.name for path in built_in.DIRECTORY.iterdir()} - set(built_in.FILES)
    assert rest == {built_in.CHECKSUMS, built_in.CARD}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(st.binary(min_size=1, max_size=300), min_size=4, max_size=4),
    name=st.sampled_from(built_in.FILES),
    bit=st.integers(0, 2400),
)
def test_one_flipped_bit_in_any_file_is_noticed_and_the_file_named(
    tmp_path: Path, contents: list[bytes], name: str, bit: int
) -> None:
    directory = sealed(tmp_path / "model", contents)
    built_in.check(directory)
    flip(directory / name, bit)
    with pytest.raises(ModelFormatError, match=rf"damaged: {name} in .* SHA256SUMS; reinstall"):
        built_in.check(directory)


@pytest.mark.parametrize("name", built_in.FILES)
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", lambda d: d + b"\n"])
def test_a_file_of_another_length_is_named(small: Path, name: str, change) -> None:
    (small / name).write_bytes(change((small / name).read_bytes()))
    with pytest.raises(ModelFormatError, match=f"damaged: {name} in"):
        built_in.check(small)


def test_all_damaged_files_are_named(small: Path) -> None:
    flip(small / "config.json", 1)
    flip(small / "tokenizer.json", 1)
    with pytest.raises(ModelFormatError, match=r"config\.json and tokenizer\.json in .* do not"):
        built_in.check(small)


def test_two_files_that_changed_places_are_both_damaged(small: Path) -> None:
    a, b = small / "tokenizer.json", small / "tokenizer_config.json"
    a.rename(small / "c")
    b.rename(a)
    (small / "c").rename(b)
    with pytest.raises(ModelFormatError, match=r"tokenizer\.json and tokenizer_config\.json"):
        built_in.check(small)


@pytest.mark.parametrize("name", [*built_in.FILES, built_in.CHECKSUMS])
def test_a_missing_file_is_named_with_the_next_step(small: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(ModelNotFoundError, match=rf"{name} is missing; reinstall laplm"):
        built_in.check(small)


@pytest.mark.parametrize("name", [*built_in.FILES, built_in.CHECKSUMS])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(small: Path, name: str) -> None:
    (small / name).unlink()
    (small / name).mkdir()
    with pytest.raises(ModelFormatError, match=rf"{name} cannot be read \(.+\); check who"):
        built_in.check(small)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\n", b"not a checksum\n"])
def test_damaged_checksums_are_noticed(small: Path, content: bytes) -> None:
    (small / built_in.CHECKSUMS).write_bytes(content)
    with pytest.raises(ModelFormatError, match="do not match SHA256SUMS"):
        built_in.check(small)


# --- every way to the model -------------------------------------------------------------------


def test_any_name_of_the_built_in_model_finds_it_checked(pocket: Path) -> None:
    names = ["pocket", str(pocket), f"{pocket}/../pocket"]
    assert [locate.locate(name).resolve() for name in names] == [pocket.resolve()] * 3
    flip(pocket / "model.safetensors", 20_000_003)
    for name in names:
        with pytest.raises(ModelFormatError, match=r"damaged: model\.safetensors"):
            locate.locate(name)
        with pytest.raises(ModelFormatError, match=r"damaged: model\.safetensors"):
            laplm.load(name)
    with pytest.raises(ModelFormatError, match=r"damaged: model\.safetensors"):
        pull.pull("pocket")


def test_a_copy_elsewhere_is_a_model_like_any_other(pocket: Path, tmp_path: Path) -> None:
    """Whoever changes a copy means to."""
    copy = tmp_path / "mine"
    shutil.copytree(pocket, copy)
    flip(copy / "model.safetensors", 20_000_003)
    assert locate.locate(str(copy)) == copy


def test_a_damaged_built_in_model_is_listed_with_the_reason(pocket: Path) -> None:
    flip(pocket / "tokenizer.json", 999)
    (listed,) = [model for model in locate.installed() if model.name == "pocket"]
    assert "damaged: tokenizer.json" in (listed.problem or "")
    (pocket / "model.safetensors").unlink()
    (listed,) = [model for model in locate.installed() if model.name == "pocket"]
    assert "model.safetensors is missing" in (listed.problem or "")


# --- the card ---------------------------------------------------------------------------------


def test_the_summary_is_the_first_paragraph_of_the_card() -> None:
    summary = built_in.summary()
    assert summary and "\n" not in summary and len(summary) > 40
    card = (built_in.DIRECTORY / built_in.CARD).read_text(encoding="utf-8")
    words = summary.split()
    assert card.replace("**", "").split()[: len(words) + 2] == ["#", "pocket", *words]


@pytest.mark.parametrize(
    "card",
    [
        "One line\nand another.\n\nMore.\n",
        "# Title\n\n## Part\n\nOne line\nand another.\n\nMore.\n",
        "---\nlicense: x\n---\n\n# Title\r\n\r\nOne line\r\nand another.\r\n\r\nMore.",
        "<!-- note -->\n\n| a | b |\n|---|---|\n\nOne **line**\nand [another](https://x.y/z).",
    ],
)
def test_titles_tables_and_marks_are_not_part_of_the_summary(tmp_path: Path, card: str) -> None:
    (tmp_path / built_in.CARD).write_bytes(card.encode())
    assert built_in.summary(tmp_path) == "One line and another."


@pytest.mark.parametrize("card", [None, b"", b"# Title\n"])
def test_no_card_is_no_summary(tmp_path: Path, card: bytes | None) -> None:
    if card is not None:
        (tmp_path / built_in.CARD).write_bytes(card)
    assert built_in.summary(tmp_path) is None
