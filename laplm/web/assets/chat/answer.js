// An answer as it comes from the server, piece by piece.

import { events, post } from "../api.js";
import { ALTERNATIVES } from "../write/stream.js";

/**
 * @param {any} asked the body of a request to /v1/chat/completions
 * @returns {AsyncGenerator<{text: string, tokens: any[], ids: number[], ended: string | null}>}
 *   pieces of text, the tokens that they are made of, and in the last why it ended
 */
export async function* answer(asked, signal) {
  const shown = { logprobs: true, top_logprobs: ALTERNATIVES, return_token_ids: true };
  const body = { ...asked, ...shown, stream: true };
  for await (const { data } of events("POST", "/v1/chat/completions", body, signal)) {
    const [choice] = data.choices;
    if (!choice) continue;
    const ended = choice.finish_reason ?? null;
    const content = choice.logprobs?.content ?? [];
    const tokens = content.map((token, i) => ({
      ends: ended === "stop" && i === content.length - 1,
      id: token.token,
      text: token.token,
      logprob: token.logprob,
      others: token.top_logprobs.map((other) => ({
        id: other.token,
        text: other.token,
        logprob: other.logprob,
      })),
    }));
    // The token that ends an answer is none of it.
    const ids = ended === "stop" ? choice.token_ids.slice(0, -1) : choice.token_ids;
    yield { text: choice.delta.content ?? "", tokens, ids, ended };
  }
}

/** The tokens that a conversation is to a model, which an answer to it comes behind. */
export async function promptIds(model, messages) {
  const body = { model, messages, max_tokens: 1, return_token_ids: true };
  return (await post("/v1/chat/completions", body)).prompt_token_ids;
}
