// An answer as it comes from the server, piece by piece.

import { events } from "../api.js";
import { ALTERNATIVES } from "../write/stream.js";

/**
 * @param {any} asked the body of a request to /v1/chat/completions
 * @returns {AsyncGenerator<{text: string, tokens: any[], ended: string | null}>} pieces of text,
 *   the tokens that they are made of, and in the last why it ended
 */
export async function* answer(asked, signal) {
  const body = { ...asked, stream: true, logprobs: true, top_logprobs: ALTERNATIVES };
  for await (const { data } of events("POST", "/v1/chat/completions", body, signal)) {
    const [choice] = data.choices;
    if (!choice) continue;
    const tokens = (choice.logprobs?.content ?? []).map((token) => ({
      id: token.token,
      text: token.token,
      logprob: token.logprob,
      others: token.top_logprobs.map((other) => ({
        id: other.token,
        text: other.token,
        logprob: other.logprob,
      })),
    }));
    yield { text: choice.delta.content ?? "", tokens, ended: choice.finish_reason ?? null };
  }
}
