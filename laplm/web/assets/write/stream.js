// Continuations as they come from the server, token by token, with what each could have been.

import { events } from "../api.js";

export const ALTERNATIVES = 8;

const tokenOf = (choice, i, last) => ({
  // No stop texts are asked for: what stops a text is the token that ends it.
  id: choice.token_ids[i],
  ends: last && choice.finish_reason === "stop",
  cut: last && choice.finish_reason === "length",
  text: choice.logprobs.token_texts[i],
  logprob: choice.logprobs.token_logprobs[i],
  others: choice.logprobs.top_token_ids[i].map((id, j) => ({
    id,
    text: choice.logprobs.top_texts[i][j],
    logprob: choice.logprobs.top_token_logprobs[i][j],
  })),
});

/**
 * @param {any} asked the body of a request to /v1/completions
 * @returns {AsyncGenerator<{index: number, promptIds: number[] | null, token: any}>}
 */
export async function* continuations(asked, signal) {
  const body = { ...asked, logprobs: ALTERNATIVES, return_token_ids: true, stream: true };
  let promptIds = null;
  for await (const { data } of events("POST", "/v1/completions", body, signal)) {
    promptIds ??= data.prompt_token_ids;
    for (const choice of data.choices) {
      const count = choice.token_ids?.length ?? 0;
      for (let i = 0; i < count; i += 1)
        yield { index: choice.index, promptIds, token: tokenOf(choice, i, i === count - 1) };
    }
  }
}

/**
 * The same, slowly enough to be watched: `pace()` ms apart, which may become 0 on the way.
 * @template T @param {AsyncGenerator<T>} stream @param {() => number} pace
 * @returns {AsyncGenerator<T>}
 */
export async function* paced(stream, pace) {
  for await (const item of stream) {
    yield item;
    if (pace()) await new Promise((done) => setTimeout(done, pace()));
  }
}
