"""From measurements to the ratios that are promised and to a table that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def find(rows: Iterable[Row], **keys: Any) -> Row | None:
    """The measured row with these keys, None when there is none."""
    for row in rows:
        if "error" not in row and all(row.get(k) == v for k, v in keys.items()):
            return row
    return None


def ratios(result: Row) -> list[Row]:
    """Every promised ratio whose two sides were measured in this run.

    Each has ``name``, ``ratio``, ``target`` and ``met``; with ``at_most`` the ratio must not
    exceed its target, otherwise it must reach it.
    """
    rows: Sequence[Row] = result["measurements"]
    out: list[Row] = []

    def add(name: str, top: float, bottom: float, target: float, at_most: bool = False) -> None:
        ratio = top / bottom
        met = ratio <= target if at_most else ratio >= target
        out.append({"name": name, "ratio": ratio, "target": target, "at_most": at_most, "met": met})

    def speed(name: str, ours: str, peer: str, target: float, **keys: Any) -> None:
        mine, theirs = (find(rows, engine=engine, **keys) for engine in (ours, peer))
        if mine and theirs:
            add(name, mine["tokens_per_second"], theirs["tokens_per_second"], target)

    positions = sorted({row["position"] for row in rows if row["task"] == "decode"})
    for way in ("step", "generate"):
        for position in positions:
            keys = {"task": "decode", "way": way, "position": position}
            at = f"decode ({way}) at {position}"
            speed(f"{at}: int8 / llama.cpp q8_0", "laplm int8", "llama.cpp q8_0", 1.5, **keys)
            speed(f"{at}: int4 / llama.cpp q4_0", "laplm int4", "llama.cpp q4_0", 1.4, **keys)
            speed(f"{at}: int8 / transformers", "laplm int8", "transformers fp32", 10.0, **keys)
    if len(positions) > 1:
        near, far = positions[0], positions[-1]
        for engine in ("laplm int8", "laplm int4"):
            first, last = (
                find(rows, task="decode", way="step", engine=engine, position=p)
                for p in (near, far)
            )
            if first and last:
                name = f"{engine} decode: speed at {far} / at {near}"
                add(name, last["tokens_per_second"], first["tokens_per_second"], 0.75)

    keys = {"engine": "laplm int8", "task": "decode", "way": "step"}
    roof = find(rows, engine="laplm int8", task="memory")
    mine = find(rows, **keys, position=min(positions, default=0))
    if roof and mine:
        reached = mine["tokens_per_second"] * roof["tokens"]
        name = f"int8 decode at {mine['position']} / memory bandwidth"
        add(name, reached, roof["tokens_per_second"], 0.85)

    for new in sorted({row["new_tokens"] for row in rows if row["task"] == "samples"}):
        keys = {"task": "samples", "new_tokens": new, "n": 10}
        ours = find(rows, engine="laplm int8", **keys)
        name = f"10 samples × {new} tokens"
        if not ours:
            continue
        for peer, way, label, target in (
            ("ctranslate2 int8", "together", "CTranslate2 int8 batched", 4.0),
            ("transformers fp32", "calls", "ten calls of transformers", 40.0),
        ):
            if theirs := find(rows, engine=peer, way=way, **keys):
                add(f"{name}: {label} / int8 (time)", theirs["seconds"], ours["seconds"], target)
        one = find(rows, engine="laplm int8", task="samples", new_tokens=new, n=1)
        if one:
            add(f"{name} / one sample (time)", ours["seconds"], one["seconds"], 2.0, at_most=True)

    speed("prefill: int8 / llama.cpp q8_0", "laplm int8", "llama.cpp q8_0", 4.0, task="prefill")
    for peer in ("llama.cpp q8_0 avx2", "llama.cpp q8_0"):
        name = f"prefill: int8 avx2 / {peer}"
        speed(name, "laplm int8 avx2", peer, 1.3, task="prefill")
    for ours, theirs in (("int8", "q8_0"), ("int4", "q4_0")):
        for peer, target in (("xllamacpp", 1.3), ("ik_llama.cpp", 1.0)):
            name = f"prefill: {ours} avx2 / {peer} {theirs}"
            speed(name, f"laplm {ours} avx2", f"{peer} {theirs}", target, task="prefill")

    cold = {row["engine"]: row for row in rows if row["task"] == "cold start"}
    ours, script, usage = (
        find(cold.values(), engine=name)
        for name in ("laplm run", "transformers, the talk's script", "laplm --help")
    )
    if ours and script:
        name = "cold start to the first token: laplm run / the talk's script (time)"
        add(name, ours["first_output"], script["first_output"], 0.2, at_most=True)
    if usage:
        add("laplm --help, seconds", usage["end"], 1.0, 0.25, at_most=True)
    return out


def markdown(result: Row) -> str:
    """The whole result as one page."""
    box, settings = result["machine"], result["settings"]
    rows: Sequence[Row] = result["measurements"]
    model = result["model"]
    names = [e["engine"] for e in result["engines"] if e.get("status") == "ran"]
    out = [f"# Side by side, {result['date'][:10]}", ""]
    roof = find(rows, task="memory")
    out += [
        f"{box['cpu']} (family, model: {box['cpu_family_model'] or 'unknown'}), {box['cores']} "
        f"cores, {box['memory_gb']} GB; {' '.join(box['flags'])}. {box['system']}, Python "
        f"{box['python']}."
        + (f" Memory reads: {roof['tokens_per_second'] / 1e9:.1f} GB/s." if roof else ""),
        "",
        f"Model: n_layer {model['n_layer']}, n_embd {model['n_embd']}, n_head {model['n_head']}, "
        f"{model['vocab_size']} tokens. {settings['threads']} threads for every engine; medians "
        f"of {settings['repeats']} interleaved repeats{' (--quick)' if settings['quick'] else ''}.",
        "",
        disturbance(rows),
        "",
    ]
    out += engine_table(result)
    decode = [r for r in rows if r["task"] == "decode"]
    if decode:
        columns = sorted({(r["way"] != "step", r["way"], r["position"]) for r in decode})
        head = [f"{way}, at {position}" for _, way, position in columns]
        out += ["## Decode, one stream (tokens/s)", ""]
        cells = [
            [rate(find(decode, engine=n, way=w, position=p)) for _, w, p in columns] for n in names
        ]
        out += table(["engine", *head], names, cells)
    samples = [r for r in rows if r["task"] == "samples"]
    if samples:
        keys = sorted({(r["new_tokens"], r["n"], r["way"]) for r in samples})
        head = [f"{n} × {new}" + (" in calls" if way == "calls" else "") for new, n, way in keys]
        out += [f"## Samples of “{settings['prompt']}” (seconds)", ""]
        cells = [
            [time_of(find(samples, engine=e, new_tokens=new, n=n, way=w)) for new, n, w in keys]
            for e in names
        ]
        out += table(["engine", *head], names, cells)
    prefill = [r for r in rows if r["task"] == "prefill"]
    if prefill:
        out += [f"## Prefill of {prefill[0]['positions']} tokens", ""]
        cells = [[rate(row := find(prefill, engine=n)), time_of(row)] for n in names]
        out += table(["engine", "tokens/s", "seconds"], names, cells)
    cold = [r for r in rows if r["task"] == "cold start"]
    if cold:
        out += ["## Cold start: a new process, one token (seconds)", ""]
        cells = [
            ["–", "–"] if "error" in r else [f"{r['first_output']:.2f}", f"{r['end']:.2f}"]
            for r in cold
        ]
        out += table(["command", "first output", "end"], [r["engine"] for r in cold], cells)
    if result["ratios"]:
        out += ["## Ratios within this run", ""]
        cells = [
            [
                f"{r['ratio']:.2f}",
                f"{'≤' if r['at_most'] else '≥'} {r['target']:g}",
                "yes" if r["met"] else "no",
            ]
            for r in result["ratios"]
        ]
        labels = [r["name"] for r in result["ratios"]]
        out += table(["what", "reached", "aim", "met"], labels, cells)
    failed = [r for r in rows if "error" in r]
    if failed:
        out += ["## Not measured", ""]
        out += [f"- {r['engine']}, {r['task']} {r['way']}: {r['error']}" for r in failed]
        out += [""]
    return "\n".join(out)


def engine_table(result: Row) -> list[str]:
    """Versions, state, memory and how close each engine's logits are."""
    same: Row = result["same_model"]
    labels, cells = [], []
    for entry in result["engines"]:
        name = entry["engine"]
        near = same.get(name)
        labels.append(name)
        cells.append(
            [
                entry["version"] or "–",
                entry["status"],
                f"{entry['peak_memory_mb']:.0f}" if "peak_memory_mb" in entry else "–",
                f"{near['largest_difference']:.1e}, {near['cosine']:.5f}" if near else "–",
            ]
        )
    base = next((near["against"] for near in same.values()), "the reference")
    head = [
        "engine",
        "version",
        "status",
        "peak MB",
        f"logits against {base}: max difference, cosine",
    ]
    notes = sorted({f"- {e['package']}: {e['notes']}" for e in result["engines"] if e["notes"]})
    return ["## Engines", "", *table(head, labels, cells), *notes, ""]


def disturbance(rows: Sequence[Row]) -> str:
    """One sentence on how quiet the machine was."""
    shares = sorted(r["disturbed"] for r in rows if r.get("disturbed") is not None)
    if not shares:
        return "How much other processes disturbed is not known on this system."
    median, worst = shares[len(shares) // 2], shares[-1]
    return (
        f"Other processes took {median:.0%} of the CPU during the median measurement and "
        f"{worst:.0%} during the worst."
    )


def rate(row: Row | None) -> str:
    """Median tokens/s with its range."""
    if row is None:
        return "–"
    width = 0 if row["tokens_per_second"] >= 100 else 1
    low, high = (f"{row[k]:.{width}f}" for k in ("slowest", "fastest"))
    return f"{row['tokens_per_second']:.{width}f} ({low}–{high})"


def time_of(row: Row | None) -> str:
    """Median seconds."""
    return "–" if row is None else f"{row['seconds']:.3f}"


def table(head: Sequence[str], labels: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table: words to the left, figures to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    lines = [head, rule, *([label, *row] for label, row in zip(labels, cells, strict=True))]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]
