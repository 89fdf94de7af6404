// How a run stands, in words.

const WORDS = {
  planning: "reading the text and timing two steps…",
  planned: "ready to start",
  running: "tuning",
  stopping: "stopping after this step…",
  stopped: "stopped; it can go on from here",
  done: "done",
  failed: "failed",
};

/** Whether nobody works on it. */
export const atRest = (entry) => ["planned", "stopped", "done", "failed"].includes(entry.state);

/** How it stands. */
export const wordsOf = (entry) =>
  (WORDS[entry.state] ?? entry.state) + (entry.elsewhere ? ", started elsewhere" : "");

/** What people call it: its model's name, or the directory that they wanted. */
export const titleOf = (entry) =>
  entry.model_name ?? (entry.directory.split(/[/\\]/).at(-1) || entry.name);
