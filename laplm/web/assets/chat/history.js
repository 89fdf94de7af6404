// The conversations that the browser keeps, the newest first.

import { local } from "../storage.js";

const MOST = 100;
let talks = local.read("chats") ?? [];

export const allTalks = () => talks;

/** @returns {boolean} whether the browser could keep it */
export function saveTalk(talk) {
  talks = [talk, ...talks.filter((each) => each.id !== talk.id)].slice(0, MOST);
  return local.write("chats", talks);
}

export function forgetTalk(talk) {
  talks = talks.filter((each) => each.id !== talk.id);
  local.write("chats", talks);
}

// Another window of the browser has changed them.
addEventListener("storage", (event) => {
  if (event.key === "laplm-chats") talks = local.read("chats") ?? [];
});
