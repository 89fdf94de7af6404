// Arcs over the words: where the chosen head looks from the word that is followed. A tap on a word
// follows it; a tap on a percentage chooses it as the other word of the pair.

import { arrowKeys, h, percent, replace, svg } from "../dom.js";
import { isOff, offMark } from "./heads.js";
import { namedToken } from "./sentence.js";

const HEIGHT = 92; // px, over the words
const THIN = 0.02; // shares below are no arc
const NAMED = 0.1; // shares from here have their number at the arc, where there is room
const [WIDE_NUMBER, HIGH_NUMBER] = [48, 17]; // px that "100 %" takes, with a gap
const AFTER = 80; // px that are in sight after the word that is followed
const POINTING = { pointerenter: true, focusin: true, pointerleave: false, focusout: false };

/** A share as a short number: 98 %. */
export const share = (p) => (p >= 0.995 ? "100 %" : p < 0.005 ? "" : `${Math.round(100 * p)} %`);

/** An arc between two places, and where its number stands. */
function makeArc(p, a, b, far) {
  const own = a === b;
  const top = HEIGHT - 26 - (own ? 0 : 0.7 * HEIGHT * Math.sqrt(Math.abs(a - b) / far));
  const path = own
    ? `M${a - 9} ${HEIGHT} C${a - 22} ${top},${a + 22} ${top},${a + 9} ${HEIGHT}`
    : `M${a} ${HEIGHT} C${a} ${top},${b} ${top},${b} ${HEIGHT}`;
  const arc = svg("path", { class: "arc", d: path });
  arc.style.setProperty("stroke-width", `${1 + 9 * p}px`);
  arc.style.setProperty("opacity", String(0.35 + 0.65 * p));
  const y = Math.max(13, HEIGHT - 0.75 * (HEIGHT - top) - 8);
  return { arc, x: (a + b) / 2, y };
}

/**
 * @param {HTMLElement} list the row of words, laid out already
 * @param {number[]} row the share of each column @param {number} from the column that looks
 * @param {number} left px of the row that are out of sight: a number stands where it is seen
 */
function drawArcs(list, picture, row, from, left) {
  const columns = [...list.children];
  const middles = columns.map((each) => each.offsetLeft + each.offsetWidth / 2);
  const width = list.scrollWidth;
  picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  picture.style.setProperty("width", `${width}px`);
  const far = Math.max(...middles.map((x) => Math.abs(x - middles[from])), 1);
  const made = row
    .map((p, to) => ({ p, to }))
    .filter(({ p, to }) => to <= from && p >= THIN)
    .map((each) => ({ ...each, ...makeArc(each.p, middles[from], middles[each.to], far) }));
  // Numbers do not lie over one another: the strongest have their place, the others are told of
  // while somebody points at the arc, or at its word.
  const named = [];
  for (const one of [...made].sort((a, b) => b.p - a.p)) {
    const half = WIDE_NUMBER / 2;
    one.x = Math.max(left + half, Math.min(width - half, one.x));
    const apart = ({ x, y }) =>
      Math.abs(x - one.x) > WIDE_NUMBER || Math.abs(y - one.y) > HIGH_NUMBER;
    one.told = one.p >= NAMED && named.every(apart);
    if (one.told) named.push(one);
  }
  const groups = made.map(({ p, to, arc, x, y, told }) => {
    const name = svg("text", {
      class: told ? "arc-name" : "arc-name untold",
      x,
      y,
      text: share(p),
    });
    const group = svg("g", { class: "arc-group" }, arc, name);
    const point = (at) => () => {
      picture.querySelector(".pointed-at")?.classList.remove("pointed-at");
      group.classList.toggle("pointed-at", at);
      picture.classList.toggle("pointing", at);
    };
    for (const [kind, at] of Object.entries(POINTING)) {
      for (const place of [arc, columns[to]]) place.addEventListener(kind, point(at));
    }
    return group;
  });
  picture.replaceChildren(...groups);
}

/**
 * @param {HTMLElement} root @param {any} seen the result of /api/look/inside
 * @param {{head: number | null, key: number | null, looks: number[] | null,
 *   follow: (at: number) => void, pair: (at: number) => void}} act `looks`: where the head looks
 *   from the word that is followed, at all of the text, if that is known
 */
export function drawWords(root, seen, act) {
  const { first, position, block } = seen;
  const from = position - first;
  const row = block && act.head !== null ? block.patterns[act.head][from] : null;
  const words = seen.tokens.slice(first);
  const off = row && isOff(seen, block.layer, act.head);
  // What is out of sight has one column, so that its share is an arc too.
  const further = row && first ? block.earlier[act.head][from] : 0;
  const before = h(
    "div",
    { class: "word-column" },
    h("span", { class: "before", text: `… ${first} before` }),
    h("span", { class: "before-share", text: share(further) || "·" }),
  );
  const columns = words.map((label, i) => {
    const at = first + i;
    const seenNow = row && i <= from;
    return h(
      "div",
      { class: "word-column" },
      h("button", {
        type: "button",
        class: `chip${at === position ? " here" : ""}`,
        text: label,
        "aria-pressed": String(at === position),
        "aria-label": `follow ${label}`,
        title: `token ${seen.ids[at]}, position ${at}`,
        "data-key": `token:${at}`,
        onclick: () => act.follow(at),
      }),
      h("button", {
        type: "button",
        class: "share",
        disabled: !seenNow,
        text: seenNow ? share(row[i]) || "·" : " ",
        "aria-pressed": String(at === act.key),
        "aria-label": seenNow
          ? `compare with ${label}, ${percent(row[i])}`
          : `${label} comes later: it cannot be seen`,
        "data-key": `pair:${at}`,
        onclick: () => act.pair(at),
      }),
    );
  });
  const picture = svg("svg", { class: "arcs", height: HEIGHT, "aria-hidden": "true" });
  const list = h(
    "div",
    { class: "word-row", role: "group", "aria-label": "Words of the prompt" },
    first ? before : null,
    columns,
  );
  const scroll = h(
    "div",
    { class: `scroll words${off ? " off" : ""}` },
    h("div", { class: "fit" }, picture, list),
  );
  replace(root, scroll, says(seen, act, row, from, off));
  arrowKeys(list, ".chip")(columns[from].firstChild);
  // It looks at what is before it: that has the room.
  const here = columns[from];
  scroll.scrollLeft = here.offsetLeft + here.offsetWidth + AFTER - scroll.clientWidth;
  if (!row) return;
  const left = scroll.scrollLeft;
  if (first) drawArcs(list, picture, [further, ...row], from + 1, left);
  else drawArcs(list, picture, row, from, left);
}

/** The same in words, which is read out too. */
function says(seen, act, row, from, off) {
  if (!row) return h("p", { class: "note looks", text: "Choose a head to see where it looks." });
  const { tokens, first } = seen;
  const best = (act.looks ?? row.slice(0, from + 1))
    .map((p, i) => [p, act.looks ? i : first + i])
    .sort((a, b) => b[0] - a[0])
    .slice(0, 3)
    .filter(([p], i) => !i || p > 0.005);
  const before = seen.block.earlier[act.head][from];
  const seenAll = before <= 0.0005;
  const rest = seenAll ? "" : `; to all ${first} tokens before those shown ${percent(before)}`;
  const most = best.map(([p, i]) => `${namedToken(tokens, i)} ${percent(p)}`).join(", ");
  const said = `${namedToken(tokens, first + from)} attends to ${most}${rest}.`;
  const head = `Head ${seen.block.layer}.${act.head}`;
  return h("p", { class: "note looks" }, `${head}: ${said}`, offMark(off));
}
