/**
 * Requests to the API: the token is sent in a header, refusals become problems.
 */

const KEY = "opsqueue-token";

/** The API's address: the server of this file, possibly below a proxy's path. */
const API = new URL("..", import.meta.url);

/** A refusal with the API's explanation. */
export class Problem extends Error {
  /** @param {number} status @param {{title?: string, detail?: string, type?: string, scopes?: string[]}} body */
  constructor(status, body) {
    super(body.detail || body.title || `the API answered ${status}`);
    this.status = status;
    this.title = body.title || `Status ${status}`;
    this.type = body.type || "";
    this.scopes = body.scopes || [];
  }
}

/** No answer at all. The connection's banner shows it; the view keeps its old content. */
export class Unreachable extends Error {
  constructor() {
    super("the API does not answer");
  }
}

/** The token: kept for this tab only, until the tab is closed or the token is forgotten. */
export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  /** @param {string} text */
  set(text) {
    sessionStorage.setItem(KEY, text);
    document.dispatchEvent(new CustomEvent("token"));
  },
  forget() {
    sessionStorage.removeItem(KEY);
    document.dispatchEvent(new CustomEvent("token"));
  },
};

/** @type {(why: string) => Promise<boolean>} */
let askForToken = async () => false;

/** Set the function that asks the user for a token; it returns whether one was entered. @param {(why: string) => Promise<boolean>} ask */
export function onUnauthenticated(ask) {
  askForToken = ask;
}

/**
 * Fetch with the token; ask the user for one if the API requires it.
 * @param {string} path below the API's address
 * @param {RequestInit} [init]
 * @returns {Promise<Response>}
 */
export async function request(path, init = {}) {
  for (;;) {
    const given = token.get();
    const headers = new Headers(init.headers);
    if (given) headers.set("authorization", `Bearer ${given}`);
    const response = await fetch(new URL(path, API), { ...init, headers, cache: "no-store", credentials: "omit" }).catch((error) => {
      throw init.signal?.aborted ? error : new Unreachable();
    });
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status !== 401 || init.signal?.aborted) throw problem;
    // Another token may have been entered since the request was sent.
    if (token.get() !== given) continue;
    if (!(await askForToken(given ? problem.message : ""))) throw problem;
    if (init.signal?.aborted) throw problem;
  }
}

/** @param {Response} response */
async function problemOf(response) {
  try {
    return new Problem(response.status, await response.json());
  } catch {
    return new Problem(response.status, { detail: `the API answered ${response.status} without a reason` });
  }
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function get(path, signal) {
  const response = await request(path, { signal });
  return parse(await response.text());
}

/**
 * Send a request, with a JSON body if there is one.
 * @param {"POST" | "PATCH"} method
 * @param {string} path
 * @param {string} [json]
 */
export async function send(method, path, json) {
  const headers = json === undefined ? {} : { "content-type": "application/json" };
  const response = await request(path, { method, headers, body: json });
  return parse(await response.text());
}

/**
 * Parse JSON; integers that JavaScript can't represent become strings, so that no digit is lost.
 * @param {string} text
 */
export function parse(text) {
  const safe = text.replace(/"(?:[^"\\]|\\.)*"|-?\d{16,}(?![\d.eE])/g, (part) =>
    part.startsWith('"') ? part : `"${part}"`);
  return JSON.parse(safe);
}

/**
 * Read up to `limit` lines of JSON as they arrive, without waiting for the rest.
 * @param {string} path @param {number} limit @param {AbortSignal} signal
 */
export async function lines(path, limit, signal) {
  const stop = new AbortController();
  const response = await request(path, { signal: AbortSignal.any([signal, stop.signal]) });
  const found = [];
  let rest = "";
  const reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) if (part) found.push(parse(part));
    if (found.length > limit) {
      stop.abort();
      break;
    }
  }
  return { found: found.slice(0, limit), hasMore: found.length > limit };
}

/** @param {string} queue */
export const queuePath = (queue) => `v1/queues/${encodeURIComponent(queue)}`;

/** @param {string} queue @param {string} id */
export const submissionPath = (queue, id) => `${queuePath(queue)}/submissions/${encodeURIComponent(id)}`;
