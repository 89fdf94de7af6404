// Small pictures: curves and points as SVG, matrices and vectors on canvases.

import { h, svg } from "./dom.js";

/** A colour of the theme, as the style sheet has it now. */
export const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const ticks = (low, high, count) => {
  const raw = (high - low) / count || 1;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * size >= raw) * size;
  const out = [];
  for (let x = Math.ceil(low / step) * step; x <= high + 1e-9; x += step)
    out.push(Number(x.toFixed(10)));
  return out;
};

// A picture is scaled to its place, and its letters with it: on a phone, and in a narrow column, it
// is drawn smaller, so that they stay as large as they are.
const narrow = () => innerWidth < 600;
const WIDE = 640;

/**
 * Curves over steps.
 * @param {{title: string, xLabel: string, room?: number,
 *   series: {name: string, points: [number, number][], dots?: boolean}[]}} of what they say; how
 *   many pixels there are across
 * @returns {SVGElement}
 */
export function curves({ title, xLabel, series, room }) {
  const across = narrow() ? 340 : Math.min(WIDE, room || WIDE);
  const [width, height, left, right, top, bottom] = [across, 260, 48, 12, 12, 36];
  const points = series.flatMap((each) => each.points);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": title,
    class: "chart",
  });
  if (!points.length) return picture;
  const xs = points.map((p) => p[0]);
  const ys = points.map((p) => p[1]);
  const [x0, x1] = [Math.min(0, ...xs), Math.max(1, ...xs)];
  const gap = (Math.max(...ys) - Math.min(...ys)) * 0.08 || 0.1;
  const [y0, y1] = [Math.min(...ys) - gap, Math.max(...ys) + gap];
  const x = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
  const y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - top - bottom);
  for (const v of ticks(y0, y1, 5)) {
    picture.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
      svg("text", {
        class: "tick",
        x: left - 8,
        y: y(v) + 4,
        "text-anchor": "end",
        text: String(v),
      }),
    );
  }
  for (const v of ticks(x0, x1, Math.min(6, x1 - x0))) {
    picture.append(
      svg("text", {
        class: "tick",
        x: x(v),
        y: height - bottom + 18,
        "text-anchor": "middle",
        text: String(v),
      }),
    );
  }
  picture.append(
    svg("text", {
      class: "tick",
      x: width - right,
      y: height - 4,
      "text-anchor": "end",
      text: xLabel,
    }),
  );
  for (const [i, { points: some, dots }] of series.entries()) {
    const line = some
      .map(([a, b], at) => `${at ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`)
      .join("");
    picture.append(svg("path", { class: `curve c${i}`, d: line }));
    if (dots || some.length === 1)
      picture.append(
        ...some.map(([a, b]) => svg("circle", { class: `dot c${i}`, cx: x(a), cy: y(b), r: 4 })),
      );
  }
  return picture;
}

/**
 * Words as points of a plane.
 * @param {{label: string, x: number, y: number, own: boolean}[]} points
 */
export function scatter(points, title) {
  const [width, height, edge] = [narrow() ? 330 : 560, 320, 26];
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": title,
    class: "chart",
  });
  const [xs, ys] = [points.map((p) => p.x), points.map((p) => p.y)];
  const scale = (v, all, size) =>
    edge +
    ((v - Math.min(...all)) / (Math.max(...all) - Math.min(...all) || 1)) * (size - 2 * edge);
  // Letters of points lie on nothing either.
  const taken = points.map((p) => [
    scale(p.x, xs, width) - 6,
    height - scale(p.y, ys, height) + 4,
    12,
  ]);
  for (const point of points) {
    const cx = scale(point.x, xs, width);
    const cy = height - scale(point.y, ys, height);
    const w = 8 * point.label.length;
    // A name goes to the right of its point, else to the left, above or below: where nothing lies.
    const places = [
      [cx + 9, cy + 4],
      [cx - 9 - w, cy + 4],
      [cx - w / 2, cy - 9],
      [cx - w / 2, cy + 18],
      [cx + 9, cy + 18],
      [cx - 9 - w, cy + 18],
      [cx + 9, cy - 9],
      [cx - 9 - w, cy - 9],
      [cx - w / 2, cy - 24],
      [cx - w / 2, cy + 33],
    ].filter(([a, b]) => a >= 0 && a + w <= width && b > 10 && b < height - 2);
    const free = places.find(
      ([a, b]) => !taken.some(([c, d, e]) => Math.abs(d - b) < 14 && a < c + e && c < a + w),
    );
    const [tx, ty] = free ?? places[0] ?? [Math.max(0, width - w), cy + 4];
    taken.push([tx, ty, w]);
    picture.append(
      svg("circle", { class: point.own ? "dot c1" : "dot c0", cx, cy, r: 5 }),
      svg("text", { class: "name", x: tx, y: ty, text: point.label }),
    );
  }
  return picture;
}

/** How much of a colour stands for a share of 0 to 1: small ones shall be seen too. */
const strength = (share) => Math.sqrt(Math.max(0, Math.min(1, share)));

/**
 * Paint where a head looks: rows look at columns.
 * @param {HTMLCanvasElement} canvas @param {number[][]} pattern shares, 0 to 1
 * @param {number} [marked] a row that is framed
 */
export function paintPattern(canvas, pattern, marked) {
  const n = pattern.length;
  const cell = Math.max(2, Math.floor(144 / n));
  canvas.width = canvas.height = n * cell;
  const context = canvas.getContext("2d");
  context.fillStyle = colour("cell");
  for (let row = 0; row < n; row += 1) context.fillRect(0, row * cell, (row + 1) * cell, cell);
  // One colour, more or less of it: a colour for each cell would have to be read each time.
  context.fillStyle = colour("accent");
  for (let row = 0; row < n; row += 1) {
    for (let column = 0; column <= row; column += 1) {
      context.globalAlpha = strength(pattern[row][column]);
      context.fillRect(column * cell, row * cell, cell, cell);
    }
  }
  context.globalAlpha = 1;
  if (marked >= 0) {
    context.strokeStyle = colour("text");
    context.lineWidth = 1.5;
    context.strokeRect(0.75, marked * cell + 0.75, (marked + 1) * cell - 1.5, cell - 1.5);
  }
}

/**
 * A vector's first numbers as a strip: one direction of colour for each sign.
 * @param {number[]} numbers @param {string} title @param {number} most what has the full colour
 */
export function strip(numbers, title, most) {
  const canvas = h("canvas", { class: "strip", role: "img", "aria-label": title, title });
  canvas.width = numbers.length * 6;
  canvas.height = 18;
  const context = canvas.getContext("2d");
  const [ground, plus, minus] = [colour("cell"), colour("accent"), colour("minus")];
  context.fillStyle = ground;
  context.fillRect(0, 0, canvas.width, 18);
  for (const [i, value] of numbers.entries()) {
    context.fillStyle = value < 0 ? minus : plus;
    context.globalAlpha = strength(Math.abs(value) / most);
    context.fillRect(i * 6, 0, 6, 18);
  }
  return canvas;
}
