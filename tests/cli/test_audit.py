"""``laplm audit``: the command line."""

from __future__ import annotations

from calling import refused


def test_audit_passes_the_command_on_with_its_options_and_its_code(laplm_, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("laplm.audit.run_audited", lambda argv: asked.append(argv) or 3)
    assert laplm_("audit", "--", "run", "--json", "-n", "3", "--", "-x").code == 3
    assert laplm_("audit", "run", "The", "--json").code == 3
    assert asked == [["run", "--json", "-n", "3", "--", "-x"], ["run", "The", "--json"]]
    refused(laplm_("audit"), "nothing to run", "laplm audit -- run")
