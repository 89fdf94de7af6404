// The few helpers with which elements are made. No string is ever parsed as HTML here, so text of a
// model or a user cannot become markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [props] attributes; `class`, `text`, `style` (an object, set through
 *   the CSSOM, which the content policy allows) and `onname` (listeners) are understood
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. @returns {SVGElement} */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "style") {
      for (const [key, of] of Object.entries(value)) element.style.setProperty(key, of);
    } else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Put these in place of all that an element holds. */
export function replace(element, ...children) {
  element.replaceChildren(...children.flat().filter((c) => c !== null && c !== undefined));
}

/** Why what follows a text that ends in a space is poor; nothing where there is no such space. */
export const looseSpace = (text) =>
  /\S[^]* $/.test(text)
    ? " The text ends in a space, but tokens of words begin with theirs: " +
      "without the last space it goes on better."
    : "";

/**
 * Draw something anew without taking the keyboard's focus away: the element that had it is found
 * again by its `data-key`.
 */
export function keepFocus(root, draw) {
  const key = root.contains(document.activeElement)
    ? document.activeElement.dataset.key
    : undefined;
  draw();
  if (key) [...root.querySelectorAll("[data-key]")].find((e) => e.dataset.key === key)?.focus();
}

/**
 * One stop of the Tab key for many buttons; the arrow keys, Home and End move among them.
 * @param {HTMLElement} group @param {string} selector of the buttons in it
 */
export function arrowKeys(group, selector) {
  const stop = (button) =>
    group.querySelectorAll(selector).forEach((each) => {
      each.tabIndex = each === button ? 0 : -1;
    });
  group.addEventListener("focusin", (event) => {
    const button = event.target.closest(selector);
    if (button) stop(button);
  });
  group.addEventListener("keydown", (event) => {
    const all = [...group.querySelectorAll(selector)];
    const at = all.indexOf(event.target.closest(selector));
    const to = {
      ArrowRight: at + 1,
      ArrowDown: at + 1,
      ArrowLeft: at - 1,
      ArrowUp: at - 1,
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // the walk has arrow keys too
    all[Math.max(0, Math.min(to, all.length - 1))].focus();
  });
  return stop;
}

/** Call `run` once, `wait` ms after the last call. */
export function debounce(run, wait) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...args), wait);
  };
}

let count = 0;

/** An id that no other element has, to bind labels to inputs. */
export function freshId() {
  count += 1;
  return `x${count}`;
}

/** What is said below a field of what it does; nothing where there is nothing to say. */
function helpFor(help) {
  if (!help) return { element: null, of: {} };
  const id = freshId();
  return { element: h("small", { class: "help", id, text: help }), of: { "aria-describedby": id } };
}

/**
 * A labelled slider with its value written beside it.
 * @returns {{element: HTMLElement, input: HTMLInputElement, value: () => number}}
 */
export function slider({ label, min, max, step, value, say = String, help, change }) {
  const id = freshId();
  const told = helpFor(help);
  const input = h("input", { type: "range", id, min, max, step, value, ...told.of });
  const out = h("output", { for: id });
  const show = () => {
    const text = say(Number(input.value));
    out.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };
  input.addEventListener("input", () => {
    show();
    change?.();
  });
  show();
  const element = h(
    "div",
    { class: "field slider" },
    h("label", { for: id, text: label }),
    out,
    input,
    told.element,
  );
  return { element, input, value: () => Number(input.value) };
}

/** A labelled number. */
export function numberField({ label, min, max, step = 1, value, placeholder, help }) {
  const id = freshId();
  const told = helpFor(help);
  const input = h("input", {
    type: "number",
    id,
    min,
    max,
    step,
    value,
    placeholder,
    inputmode: "numeric",
    ...told.of,
  });
  const element = h("div", { class: "field" }, h("label", { for: id, text: label }), input);
  if (told.element) element.append(told.element);
  return { element, input };
}

/** Numbers in words that a person reads. */
export const percent = (p) =>
  p === null || p === undefined
    ? "–"
    : p > 0 && p < 0.0005
      ? "< 0.1 %"
      : `${(100 * p).toFixed(1)} %`;

/** A number with so many digits: with a real minus, and none before nothing. */
export const decimal = (number, digits) => {
  const said = number.toFixed(digits);
  return Number(said) === 0 ? said.replace("-", "") : said.replace("-", "−");
};

export const bytes = (n) => {
  if (n === null || n === undefined) return "–";
  const units = ["B", "kB", "MB", "GB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) {
    n /= 1000;
    i += 1;
  }
  return `${n.toFixed(n < 10 && i ? 1 : 0)} ${units[i]}`;
};

export const duration = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
};

/** White space made visible, as laplm's own labels have it. */
export const visible = (text) =>
  text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "→");
