"""Which attention heads does an answer depend on? Take each out, rank them, check the ranking.

For example: python heads_that_matter.py "The capital of Spain is" " Madrid"
"""

import argparse
import sys

import numpy as np

import laplm
from laplm.look import ablate, ablation_tap

KEPT = 5


def main() -> None:
    """Rank the heads, then take out many at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", help="what comes before the answer")
    parser.add_argument("answer", help='one token, with its space: " Madrid"')
    parser.add_argument("model", nargs="?", default="pocket", help="a name or a directory")
    args = parser.parse_args()
    lm = laplm.load(args.model, "fp32")

    # One head at a time: how far does the answer's logit fall without it?
    each = ablate(lm, args.prompt, components="heads", target=args.answer)
    order = np.argsort(each.effect, axis=None)
    ranked = [divmod(int(i), lm.config.n_head) for i in order]
    print(f"probability of {args.answer!r} after {args.prompt!r}: {each.probability:.1%}")
    for layer, head in ranked[:KEPT]:
        print(
            f"  without head {layer}.{head}: logit {each.effect[layer, head]:+.2f}, "
            f"probability {each.probabilities[layer, head]:.1%}"
        )

    # Does it hold together? As many heads at once, from the top and from the bottom of the list.
    (token,) = lm.tokenizer.encode(args.answer)
    for which, heads in (("most", ranked[:KEPT]), ("least", ranked[-KEPT:])):
        tap = ablation_tap(lm, heads=heads)
        logits = lm.run_with_cache(args.prompt, ["logits"], tap=tap)["logits"][-1].astype(float)
        p = np.exp(logits - logits.max())
        print(f"without the {len(heads)} that matter {which}: {p[token] / p.sum():.1%}")


if __name__ == "__main__":
    try:
        main()
    except laplm.LaplmError as error:  # no such model, an answer of two tokens, ...
        sys.exit(str(error))
