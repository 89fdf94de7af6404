// The story of a prompt, from /api/look/why: the sentence, what each head adds, where it looks.

import { post } from "../api.js";
import { namedToken } from "./sentence.js";

/**
 * @param {string} model @param {number[]} ids the tokens down to the one that is followed
 * @returns {Promise<any>} the answer; `story` is null where the model's logits are not split
 */
export async function askWhy(model, ids, signal) {
  const answer = await post("/api/look/why", { model, text: ids, k: 1 }, signal);
  return { sentence: answer.sentence, story: answer.result };
}

/** What a head adds to the logit of the next token, or null where that is not known. */
export const addsOf = (story, layer, head) => story?.attribution.heads[layer][head] ?? null;

/**
 * Where a head looks from the token that is followed, at all tokens down to it; null where that is
 * not known: the story is of the model with all of its parts.
 */
export const looksOf = (story, seen, layer, head) =>
  story && !seen.without.length ? story.looks[layer][head] : null;

/** The head of a layer that adds most, and where it looks. */
export function bestHead(story, layer) {
  if (!story) return null;
  const row = story.attribution.heads[layer];
  const adds = Math.max(...row);
  const head = row.indexOf(adds);
  const looks = story.looks[layer][head];
  return { head, adds, looks: namedToken(story.tokens, looks.indexOf(Math.max(...looks))) };
}

/** The layer and head that add most of all. */
export function strongestHead(story) {
  const every = story.attribution.heads.flatMap((row, layer) =>
    row.map((adds, head) => ({ layer, head, adds })),
  );
  return every.reduce((a, b) => (b.adds > a.adds ? b : a));
}
