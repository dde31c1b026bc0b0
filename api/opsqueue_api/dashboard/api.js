/**
 * The API as this page asks it: the token goes into a header, refusals become problems.
 */

const KEY = "opsqueue-token";

/** Where the API is: what serves this file, maybe below a path of a proxy's. */
const API = new URL("..", import.meta.url);

/** A refusal, as the API explains it. */
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

/** No answer at all. The connection's banner tells of it; what is shown stays, though it is old. */
export class Unreachable extends Error {
  constructor() {
    super("the API does not answer");
  }
}

/** The token: kept for this tab alone, until it is closed or told to forget. */
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

/** Say who asks people for a token; it answers whether one was given. @param {(why: string) => Promise<boolean>} ask */
export function onUnauthenticated(ask) {
  askForToken = ask;
}

/**
 * Fetch, with the token; where the API asks for one, so do we.
 * @param {string} path below the API's
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
    // Somebody may have given one since this was asked.
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
    return new Problem(response.status, { detail: `the API answered ${response.status} without saying why` });
  }
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function get(path, signal) {
  const response = await request(path, { signal });
  return parse(await response.text());
}

/**
 * Send, with a body of JSON where there is one.
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
 * Read JSON; integers that JavaScript can't hold become strings, and none of their digits is lost.
 * @param {string} text
 */
export function parse(text) {
  const safe = text.replace(/"(?:[^"\\]|\\.)*"|-?\d{16,}(?![\d.eE])/g, (part) =>
    part.startsWith('"') ? part : `"${part}"`);
  return JSON.parse(safe);
}

/**
 * Read lines of JSON as they come, at most so many; the rest is not waited for.
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
