// A conversation as data: messages that point at the one before them, so that an edited question
// or another answer is a branch beside the first, and nothing is lost.

const freshName = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;

/** @returns {any} one without messages */
export const newConversation = (system = "") => ({
  id: freshName(),
  system,
  // By their id: {id, parent, role, text, note}; of an answer also the model and its tokens' ids.
  messages: {},
  last: null, // the message that is at the end of what is shown
  changed: Date.now(),
});

/** Put a message behind another one, and show it. @returns {any} the message */
export function addMessage(talk, parent, role, text = "") {
  const message = { id: freshName(), parent, role, text, note: "" };
  talk.messages[message.id] = message;
  talk.last = message.id;
  talk.changed = Date.now();
  return message;
}

/** The messages that are shown, from the first on. */
export function shownMessages(talk, upTo = talk.last) {
  const out = [];
  for (let id = upTo; id; id = talk.messages[id].parent) out.unshift(talk.messages[id]);
  return out;
}

/** All messages that stand at a message's place, itself among them, the oldest first. */
export const siblings = (talk, message) =>
  Object.values(talk.messages).filter((each) => each.parent === message.parent);

/** Show another message in one's place, with the newest of all that followed it. */
export function showSibling(talk, message) {
  talk.last = message.id;
  for (;;) {
    const next = Object.values(talk.messages).findLast((each) => each.parent === talk.last);
    if (!next) return;
    talk.last = next.id;
  }
}

/** A conversation of its own that has the messages down to one. */
export function branchAt(talk, message) {
  const out = newConversation(talk.system);
  for (const each of shownMessages(talk, message.id)) {
    const copy = addMessage(out, out.last, each.role, each.text);
    Object.assign(copy, { note: each.note, model: each.model, ids: each.ids });
  }
  return out;
}

/** What a list calls it: its first question. */
export const titleOf = (talk) =>
  Object.values(talk.messages)
    .find((each) => each.role === "user")
    ?.text.slice(0, 60) || "New chat";

/** What the model is asked: the system prompt, and the messages down to one. */
export function requestMessages(talk, upTo) {
  const said = shownMessages(talk, upTo).map(({ role, text }) => ({ role, content: text }));
  return talk.system.trim() ? [{ role: "system", content: talk.system }, ...said] : said;
}

/** The conversation that is shown, to read. */
export function toMarkdown(talk) {
  const system = talk.system.trim() ? [`> ${talk.system.replaceAll("\n", "\n> ")}`] : [];
  const said = shownMessages(talk).map(
    ({ role, text }) => `**${role === "user" ? "You" : "Model"}**\n\n${text}`,
  );
  return `# ${titleOf(talk)}\n\n${[...system, ...said].join("\n\n")}\n`;
}

/** The same as a row of a file that `laplm tune` reads. */
export const toJson = (talk) =>
  `${JSON.stringify({ messages: requestMessages(talk, talk.last) })}\n`;
