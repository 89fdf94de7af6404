// The heads of the open layer as maps. A tap looks; the switch beneath switches off.

import { paintPattern } from "../charts.js";
import { arrowKeys, decimal, h, percent, replace } from "../dom.js";

const MOST_ACROSS = 6;

/** A switch that says whether a part is on. */
export function partSwitch(part, label, off, toggle) {
  return h("button", {
    type: "button",
    role: "switch",
    class: "switch",
    "aria-checked": String(!off),
    "data-key": `switch:${part}`,
    "aria-label": label,
    text: off ? "off" : "on",
    onclick: () => toggle(part),
  });
}

/** Whether a head was off in what is seen: by itself, or with all of its layer. */
export const isOff = ({ without }, layer, head) =>
  without.includes(`head:${layer}.${head}`) || without.includes(`attention:${layer}`);

/** That a head is off. Where it is on the words have their place too: nothing wraps anew. */
export const offMark = (off) =>
  h("span", { class: off ? "off-mark" : "off-mark unshown", text: " (switched off)" });

const signed = (number) => {
  const said = decimal(number, 1);
  return said.startsWith("−") ? said : `+${said}`;
};

/** How many stand side by side where there is room: rows that are as long as each other. */
const across = (n) => Math.ceil(n / Math.ceil(n / MOST_ACROSS));

/**
 * @param {HTMLElement} root @param {any} seen the result of /api/look/inside
 * @param {{head: number, off: Set<string>, toggle: (part: string) => void,
 *   choose: (head: number) => void, adds: (layer: number, head: number) => number | null}} act
 */
export function drawHeads(root, seen, act) {
  const { block, first, position } = seen;
  const labels = seen.tokens.slice(first);
  const at = position - first;
  const cards = block.patterns.map((pattern, i) => {
    const name = `${block.layer}.${i}`;
    const part = `head:${name}`;
    const without = isOff(seen, block.layer, i);
    const most = pattern[at].indexOf(Math.max(...pattern[at]));
    const adds = act.adds(block.layer, i);
    const canvas = h("canvas", { "aria-hidden": "true" });
    paintPattern(canvas, pattern, at);
    const look = h(
      "button",
      {
        type: "button",
        class: "head",
        "aria-pressed": String(i === act.head),
        "data-key": `look:${name}`,
        "aria-label": `Head ${name} attends most to ${labels[most]}, ${percent(pattern[at][most])}${
          adds === null ? "" : `; it adds ${signed(adds)}`
        }${without ? "; switched off" : ""}`,
        onclick: () => act.choose(i),
      },
      canvas,
      h("b", { text: name }),
      adds === null ? null : h("span", { class: "note", text: signed(adds) }),
    );
    return h(
      "div",
      { class: `head-card${without ? " off" : ""}` },
      look,
      partSwitch(part, `Head ${name}`, act.off.has(part), act.toggle),
    );
  });
  const part = `attention:${block.layer}`;
  const style = { "--across": across(cards.length) };
  const maps = h("div", { class: "heads", role: "group", "aria-label": "Heads", style }, cards);
  arrowKeys(maps, ".head")(cards[act.head].firstChild);
  replace(
    root,
    maps,
    h(
      "p",
      { class: "row note" },
      partSwitch(part, `All heads of layer ${block.layer}`, act.off.has(part), act.toggle),
      `all heads of layer ${block.layer}`,
    ),
    h("p", {
      class: "note",
      text:
        "Rows attend to columns; framed: the word that is followed. Beneath: what the head adds " +
        "to the logit of the next token (its score, before scores become probabilities). A tap " +
        "looks, the switch switches off.",
    }),
  );
}
