// The only module that talks to the server. Everything is under the page's own origin; where the
// server wants a key, it has given the page a cookie.

/** What the server says went wrong, in its own plain words. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Whether an error only says that we ourselves stopped a request. */
export const aborted = (error) => error.name === "AbortError";

async function request(method, path, body, signal) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (aborted(error)) throw error;
    throw new ApiError(0, "the server does not answer; is laplm serve still running?");
  }
  if (!response.ok) {
    let message = `the server answered ${response.status}`;
    try {
      message = (await response.json()).error.message;
    } catch {
      // Not in the server's own form: the status must do.
    }
    throw new ApiError(response.status, message);
  }
  return response;
}

/** @returns {Promise<any>} */
export const get = async (path, signal) => (await request("GET", path, undefined, signal)).json();

/** @returns {Promise<any>} */
export const post = async (path, body = {}, signal) =>
  (await request("POST", path, body, signal)).json();

/** Change something. @returns {Promise<any>} */
export const patch = async (path, body) => (await request("PATCH", path, body)).json();

/** Take something away. */
export const remove = async (path) => {
  await request("DELETE", path);
};

/** A page as text. @returns {Promise<string>} */
export const getText = async (path) => (await request("GET", path)).text();

/**
 * Server-sent events of a request, one by one. EventSource is not used: it cannot post, and
 * tells nothing of why a request was refused.
 * @returns {AsyncGenerator<{event: string, data: any}>}
 */
export async function* events(method, path, body, signal) {
  const response = await request(method, path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value.replaceAll("\r\n", "\n");
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        let event = "message";
        const data = [];
        for (const line of block.split("\n")) {
          if (line.startsWith("event:")) event = line.slice(6).trim();
          else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        }
        if (!data.length) continue; // a comment that keeps the connection alive
        if (data[0] === "[DONE]") return;
        signal?.throwIfAborted(); // what has come already is not wanted any more either
        const found = JSON.parse(data.join("\n"));
        if (found.error) throw new ApiError(0, found.error.message);
        yield { event, data: found };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
