"""Which attention heads does an answer depend on? Take each out, rank them, check the ranking.

python heads_that_matter.py "The capital of Spain is" " Madrid" [MODEL]
"""

import sys

import numpy as np

import laplm
from laplm.look.ablation import ablate, ablation_tap

KEPT = 5

prompt, target = sys.argv[1:3]
lm = laplm.load(sys.argv[3] if len(sys.argv) > 3 else "pocket", "fp32")

# One head at a time: how far does the answer's logit fall without it?
each = ablate(lm, prompt, components="heads", target=target)
order = np.argsort(each.effect, axis=None)
ranked = [(int(i // lm.config.n_head), int(i % lm.config.n_head)) for i in order]
print(f"probability of {target!r} after {prompt!r}: {each.probability:.1%}")
for layer, head in ranked[:KEPT]:
    print(
        f"  without head {layer}.{head}: logit {each.effect[layer, head]:+.2f}, "
        f"probability {each.probabilities[layer, head]:.1%}"
    )

# Does it hold together? The same number of heads, from the top and from the bottom of the list.
wanted = lm.tokenizer.encode(target)[0]
for name, heads in (("most", ranked[:KEPT]), ("least", ranked[-KEPT:])):
    tap = ablation_tap(lm, heads=heads)
    logits = lm.run_with_cache(prompt, ["logits"], tap=tap)["logits"][-1].astype(np.float64)
    p = np.exp(logits - logits.max())
    print(f"without the {KEPT} that matter {name}: {p[wanted] / p.sum():.1%}")
