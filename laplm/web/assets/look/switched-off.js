// The parts that are switched off in Look inside. They count there only, which Write says.

/** @type {Set<string>} "head:3.1", "attention:2", "feed-forward:0", "neuron:4.17" */
export const switchedOff = new Set();

/** "head:3.1" in words; layers and heads count from 0. */
function partName(part) {
  const [kind, where] = part.split(":");
  return kind === "head" || kind === "neuron" ? `${kind} ${where}` : `${kind} of layer ${where}`;
}

/** All of them in words. */
export const offNames = () => [...switchedOff].map(partName).join(", ");
