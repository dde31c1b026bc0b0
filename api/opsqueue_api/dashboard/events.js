/**
 * Server-sent events, read by fetch: an EventSource can't send a token in a header, and it hides why a
 * request was refused. Reconnects with growing pauses, and reports the state of the connection.
 */

import { Problem, parse, request } from "./api.js";

const FIRST_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 30_000;
/** The API sends at least a comment every 15 s. */
const SILENCE_MS = 40_000;

/**
 * @typedef {{state: "connecting"} | {state: "live"} | {state: "hidden"}
 *   | {state: "lost", why: string, retryAt: number, retry: () => void}
 *   | {state: "refused", problem: Problem} | {state: "ended"}} Connection
 */

/**
 * Follow a stream of events until the signal aborts it or the handler asks to stop.
 * @param {string} path
 * @param {{
 *   signal: AbortSignal,
 *   onEvent: (name: string, data: any) => boolean | void,
 *   onConnection: (connection: Connection) => void,
 *   onOpen?: () => void,
 * }} with_ `onEvent` returns true to stop; `onOpen` is called for each connection
 */
export async function follow(path, { signal, onEvent, onConnection, onOpen }) {
  let pauseMs = FIRST_PAUSE_MS;
  let lastId = "";
  while (!signal.aborted) {
    // A browser has six connections to a server for all its tabs together, so hidden tabs close
    // theirs.
    if (document.hidden) {
      onConnection({ state: "hidden" });
      await becomesVisible(signal);
      continue;
    }
    onConnection({ state: "connecting" });
    const attempt = new AbortController();
    const hide = () => document.hidden && attempt.abort();
    document.addEventListener("visibilitychange", hide);
    let why = "the API closed the connection";
    let watch = 0;
    const hear = () => {
      clearTimeout(watch);
      watch = setTimeout(() => attempt.abort(), SILENCE_MS);
    };
    try {
      hear();
      const headers = { accept: "text/event-stream", ...(lastId ? { "last-event-id": lastId } : {}) };
      const response = await request(path, { headers, signal: AbortSignal.any([signal, attempt.signal]) });
      if (response.status === 204) {
        onConnection({ state: "ended" });
        return;
      }
      onConnection({ state: "live" });
      onOpen?.();
      pauseMs = FIRST_PAUSE_MS;
      for await (const event of eventsOf(/** @type {ReadableStream} */ (response.body), hear)) {
        if (event.id) lastId = event.id;
        if (onEvent(event.name, parse(event.data))) {
          attempt.abort();
          onConnection({ state: "ended" });
          return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status < 500) {
        onConnection({ state: "refused", problem: error });
        return;
      }
      if (error instanceof Problem) why = error.message;
      else if (!document.hidden) why = attempt.signal.aborted ? "the API went silent" : "the API does not answer";
    } finally {
      clearTimeout(watch);
      document.removeEventListener("visibilitychange", hide);
    }
    if (signal.aborted) return;
    if (document.hidden) continue;
    // Half of the pause is random, so that the clients of an API do not all return together.
    const waitMs = pauseMs / 2 + (Math.random() * pauseMs) / 2;
    pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS);
    await new Promise((resolve) => {
      const go = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", go);
        resolve(undefined);
      };
      const timer = setTimeout(go, waitMs);
      signal.addEventListener("abort", go);
      onConnection({ state: "lost", why, retryAt: Date.now() + waitMs, retry: go });
    });
  }
}

/** @param {AbortSignal} signal */
function becomesVisible(signal) {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      resolve(undefined);
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
  });
}

/**
 * Split a stream into events, as in the HTML standard.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} hear called whenever data arrives
 * @returns {AsyncGenerator<{name: string, id: string, data: string}>}
 */
async function* eventsOf(body, hear) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    hear();
    const parts = (rest + value).split("\n\n");
    rest = parts.pop() ?? "";
    for (const part of parts) {
      const event = { name: "message", id: "", data: "" };
      for (const line of part.split("\n")) {
        const [, field, text] = /^(\w*): ?(.*)$/.exec(line) ?? [];
        if (field === "event") event.name = text;
        else if (field === "id") event.id = text;
        else if (field === "data") event.data += text;
      }
      if (event.data) yield event;
    }
  }
}
