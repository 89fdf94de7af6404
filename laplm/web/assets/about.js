// One line: which model, how large it is, and that nothing leaves the computer.

import { bytes } from "./dom.js";
import { chosenModel, entryOf, onModels } from "./models-list.js";

const count = (n) =>
  n >= 1e9
    ? `${(n / 1e9).toFixed(1)} billion`
    : `${(n / 1e6).toLocaleString("en", { maximumFractionDigits: n < 1e8 ? 1 : 0 })} million`;

/** @param {HTMLElement} root */
export function startAbout(root) {
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  const where = local
    ? "It runs on this computer; nothing you type leaves it."
    : `It runs on ${location.hostname}; what you type goes there and nowhere else.`;
  onModels(() => {
    const entry = entryOf(chosenModel());
    if (!entry) return;
    const size = entry.parameters
      ? `${count(entry.parameters)} parameters in ${entry.n_layer} layers of ${entry.n_head} ` +
        `heads, ${bytes(entry.bytes_on_disk)} on disk. `
      : "";
    root.textContent = `${entry.name}: ${size}${where}`;
  });
}
