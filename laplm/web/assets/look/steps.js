// The stops of the walk: what each points at, and what is said there with the numbers of this
// prompt. `seen` is the result of /api/look/inside, `why` of /api/look/why (or null).

import { decimal, percent } from "../dom.js";
import { isOff } from "./heads.js";
import { namedToken } from "./sentence.js";
import { looksOf } from "./why.js";

const one = (number) => decimal(number, 1);
const most = (row) => row.indexOf(Math.max(...row));

/** @type {{name: string, title: string, points: string, needs?: string,
 *   say: (seen: any, why: any, head: number) => string}[]} */
export const STEPS = [
  {
    name: "tokens",
    title: "Tokens",
    points: ".word-row",
    say: ({ tokens, ids, sizes }) => {
      const known = sizes.vocab_size.toLocaleString("en");
      return (
        `The prompt is ${tokens.length} tokens, of ${known} that the model knows. ` +
        `The last, “${tokens.at(-1)}”, is number ${ids.at(-1)}.`
      );
    },
  },
  {
    name: "embedding",
    title: "Embedding",
    points: ".layers li:first-child .river",
    say: ({ tokens, position, sizes, stream_norms: norms }) =>
      `“${tokens[position]}” becomes a vector X of ${sizes.n_embd} numbers, ` +
      `${one(norms[0][position])} long: the river begins here.`,
  },
  {
    name: "river",
    title: "Residual stream",
    points: ".layers",
    say: ({ position, stream_norms: norms, sizes }) =>
      `${sizes.n_layer} layers read X and add to it; nothing is overwritten. It grows from ` +
      `${one(norms[0][position])} to ${one(norms.at(-1)[position])}.`,
  },
  {
    name: "attention",
    title: "Attention",
    points: ".words",
    say: (seen, why, head) => {
      const { tokens, first, position, block } = seen;
      const copies = isOff(seen, block.layer, head)
        ? "but it is switched off, and copies nothing."
        : "and copies that much of it.";
      const all = looksOf(why, seen, block.layer, head);
      const row = all ?? block.patterns[head][position - first];
      const to = most(row);
      const [from, at] = [position, all ? to : first + to].map((i) => namedToken(tokens, i));
      const looks = `${from} looks at ${at} with ${percent(row[to])}`;
      return `In head ${block.layer}.${head}, ${looks}, ${copies}`;
    },
  },
  {
    name: "pair",
    title: "Query and key",
    points: ".pair",
    say: ({ tokens, first, block: { opened } }) => {
      const to = most(opened.pattern);
      const score = decimal(opened.scores[to], 2);
      return (
        `Its query fits the key of ${namedToken(tokens, first + to)} best. Their scaled ` +
        `product is ${score}, which the softmax makes ${percent(opened.pattern[to])}.`
      );
    },
  },
  {
    name: "switch",
    title: "Switch it off",
    points: ".head-card:has([aria-pressed=true])",
    say: ({ block }, why, head) => {
      const part = why?.strongest.find((each) => each.head !== null);
      return part && part.layer === block.layer && part.head === head
        ? `Switched off, “${why.target}” goes from ${percent(why.probability)} to ` +
            `${percent(part.probability)}. Try the switch, and watch the bars.`
        : `Switch head ${block.layer}.${head} off and watch the bars: was it needed?`;
    },
  },
  {
    name: "feed",
    title: "Feed-forward",
    points: "[data-part=neurons]",
    needs: "neurons",
    say: ({ block, sizes }) => {
      const [neuron] = block.neurons;
      return (
        `Of ${sizes.n_inner.toLocaleString("en")} neurons in layer ${block.layer}, ` +
        `${percent(block.active)} are active. The strongest, ${neuron.index} with ` +
        `${decimal(neuron.activation, 2)}, promotes “${neuron.promotes[0]}”.`
      );
    },
  },
  {
    name: "lens",
    title: "Logit lens",
    points: ".layers",
    say: ({ lens, position }) => {
      const column = position - lens.first;
      const words = lens.tokens.map((row) => row[column]);
      const p = lens.probabilities.map((row) => row[column]);
      const stays = words.findLastIndex((word) => word !== words.at(-1));
      return (
        `Ended here, the model would say “${words[0]}” before layer 0. “${words.at(-1)}” leads ` +
        `from layer ${Math.max(0, stays)} on, and has ${percent(p.at(-1))} after the last.`
      );
    },
  },
  {
    name: "next",
    title: "The next token",
    points: ".next",
    say: ({ next_tokens: tokens, logits, drawn }) =>
      `“${tokens[0]}” has the highest logit, ${one(logits[0])}, and so ` +
      `${percent(drawn.probabilities[0])}; the uncertainty is ${drawn.entropy.toFixed(2)} bits. ` +
      "Draw takes one by these odds, and all begins anew.",
  },
];
