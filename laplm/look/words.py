"""Numbers in the sentences that views begin with."""

from __future__ import annotations

from collections.abc import Sequence


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


def counted(count: int, what: str) -> str:
    """So many of something: "1 token", "2,048 tokens"."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def quoted(token: str) -> str:
    """A token in a sentence, its white space visible."""
    return f"“{token}”"


def quoted_at(tokens: Sequence[str], position: int) -> str:
    """One token of a text in a sentence, with its position where the text has it several times."""
    token = tokens[position]
    # With or without the space before it, a reader sees the same word.
    word = token.removeprefix("·")
    several = sum(other.removeprefix("·") == word for other in tokens) > 1
    return quoted(token) + f" (position {position})" * several


def describe_key_heads(n_head: int, n_kv_head: int) -> str:
    """Which query heads share a key head, as a sentence; "" where each has its own."""
    size = n_head // n_kv_head
    if size == 1:
        return ""
    if n_kv_head == 1:
        return f"All {n_head} query heads share one key head."
    groups = []
    for i in range(n_kv_head):
        first, last = i * size, (i + 1) * size - 1
        groups.append(f"{first} {'and' if size == 2 else 'to'} {last} key head {i}")
    groups[0] = groups[0].replace(" key", " share key")
    if n_kv_head > 4:
        return f"Query heads {groups[0]}, {groups[1]}, and so on to {groups[-1]}."
    return f"Query heads {', '.join(groups[:-1])} and {groups[-1]}."


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in order, those that follow each other as one: "0 to 4, 6"."""
    found: list[list[int]] = []
    for n in numbers:
        if found and n == found[-1][-1] + 1:
            found[-1].append(n)
        else:
            found.append([n])
    return ", ".join(
        f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in found
    )


def describe_lead(stage: int, n_layer: int) -> str:
    """From which stage of the logit lens (0: the embedding) on a token leads, in words."""
    if stage == 0:
        return "leads from the embedding on"
    if n_layer == 1:
        return "leads after the only layer"
    which = "the last" if stage == n_layer else f"of 0 to {n_layer - 1}"
    return f"leads from layer {stage - 1} ({which}) on"
