"""Numbers in the sentences that views begin with."""

from __future__ import annotations


def percent(share: float, digits: int = 1) -> str:
    """A share of 1 in words: 0.989 is "98.9%"; what rounds to nothing, but is not, says so."""
    least = 10.0**-digits
    if 0 < share < least / 200:
        return f"less than {least:g}%"
    return f"{100 * share:.{digits}f}%"


def describe_change(before: float, after: float) -> str:
    """From one share of 1 to another: "falls from 98.9 to 94.1%", "stays at 98.9%"."""
    texts = [percent(share) for share in (before, after)]
    if texts[0] == texts[1]:
        return f"stays at {texts[0]}"
    verb = "falls" if after < before else "rises"
    first = texts[0] if "less" in texts[0] else texts[0].removesuffix("%")
    return f"{verb} from {first} to {texts[1]}"


def quoted(token: str) -> str:
    """A token in a sentence, its white space visible."""
    return f"“{token}”"


def describe_lead(stage: int, n_layer: int) -> str:
    """From which stage of the logit lens (0: the embedding) on a token leads, in words."""
    if stage == 0:
        return "leads from the embedding on"
    if n_layer == 1:
        return "leads after the only layer"
    which = "the last" if stage == n_layer else f"of 0 to {n_layer - 1}"
    return f"leads from layer {stage - 1} ({which}) on"
