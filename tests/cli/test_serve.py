"""``laplm serve`` from the command line: what it makes of its options; tests/serve has the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from calling import refused

from laplm.cli import serve as command
from laplm.run import language_model
from laplm.serve import logs, server


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What is handed on to the server, which does not start; it says that it listens."""
    made: list[SimpleNamespace] = []

    def serve(options: Any, host: str, port: int, **more: Any) -> None:
        made.append(SimpleNamespace(options=options, host=host, port=port, **more))
        more["ready"](f"http://{host}:{port}/")

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(logs, "set_up", lambda **_: None)
    monkeypatch.delenv("LAPLM_API_KEY", raising=False)
    return made


def test_options_reach_the_server(laplm_, served: list[Any], tiny_model_dir: Path) -> None:
    result = laplm_(
        "serve", f"mine={tiny_model_dir}", "pocket", "--precision", "int4", "--threads", 3,
        "--look-precision", "int8", "--keep", 2, "--slots", 5, "--queue", 7, "--time-limit", 30,
        "--strict", "--grace", 1.5, "--port", 81, "--allow-origin", "https://friend.example/",
        "--allow-host", "Box.Local", "--runs", "here", "--log-prompts", "--no-open",
        "--allow-pull",
    )  # fmt: skip
    assert (result.code, result.out) == (0, "")
    assert result.err == (
        "the page: http://127.0.0.1:81/  OpenAI's API: http://127.0.0.1:81/v1  Ctrl-C stops\n"
    )
    (call,) = served
    options, settings, policy = call.options, call.options.settings, call.options.policy
    assert list(options.given) == ["mine", "pocket"] and options.default == "mine"
    assert (settings.precision, settings.look_precision, settings.threads) == ("int4", "int8", 3)
    assert (settings.keep, settings.slots, settings.queue) == (2, 5, 7)
    assert (settings.time_limit, settings.strict) == (30.0, True)
    assert (policy.key, policy.names, policy.anywhere) == (None, {"box.local"}, False)
    assert policy.origins == {"https://friend.example"}
    assert (options.runs, options.log_prompts) == (Path("here"), True)
    assert options.allow_pull
    assert (call.host, call.port, call.grace, call.open_page) == ("127.0.0.1", 81, 1.5, False)


def test_without_a_model_it_is_the_default_one_and_that_is_said(
    laplm_, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "default_model", lambda: ("pocket", "it is built in"))
    noted: list[tuple[str, str]] = []
    monkeypatch.setattr(command, "note_model", lambda *what: noted.append(what))
    assert laplm_("serve").code == 0
    assert noted == [("pocket", "it is built in")]
    assert (served[0].options.given, served[0].options.default) == ({"pocket": "pocket"}, "pocket")
    assert not served[0].options.allow_pull, "nothing goes online unasked"
    assert not served[0].open_page, "nobody sits at a terminal here"


def test_a_key_is_taken_from_the_environment_and_not_shown(
    laplm_, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_API_KEY", "correct horse")
    result = laplm_("serve", "pocket", "--host", "0.0.0.0")
    assert "horse" not in result.err and "/?key=...  OpenAI's API" in result.err
    policy = served[0].options.policy
    assert (policy.key, policy.anywhere) == ("correct horse", True)
    assert policy.names == {"0.0.0.0"}
    laplm_("serve", "pocket", "--api-key", "another one")
    assert served[1].options.policy.key == "another one"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "0.0.0.0"), "--api-key"),
        (("--port", "70000"), "65535"),
        (("--keep", "0"), "--keep is 0, but it must be between 1 and 100"),
        (("--slots", "193"), "--slots is 193, but it must be between 1 and 192"),
        (("--queue", "0"), "--queue is 0"),
        (("--time-limit", "0"), "--time-limit is 0"),
        (("--grace", "-1"), "--grace is -1"),
        (("--precision", "int3"), "--precision is 'int3'"),
        (("--look-precision", "int3"), "--look-precision is 'int3'"),
        (("--api-key", "short"), "8 characters"),
        (("--quiet", "--log-prompts"), "--log-prompts"),
    ],
)
def test_what_cannot_be_served_says_why(
    laplm_, served: list[Any], words: tuple[str, ...], said: str
) -> None:
    refused(laplm_("serve", "pocket", *words), said)
    assert not served


def test_a_model_that_cannot_be_opened_is_said_before_it_listens(
    laplm_, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "set_up", lambda **_: None)
    (tmp_path / "config.json").write_text("{}")
    for word in ("nobody-has-this", f"mine={tmp_path}"):
        refused(laplm_("serve", word, "--port", 0, "--no-open"), word.rpartition("=")[2])
