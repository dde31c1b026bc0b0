/** The outcome of a submission: its failure, the errors of its operations, its results. */

import { Unreachable, lines, request, submissionPath, token } from "./api.js";
import { h, reconcile, replace, setText, show } from "./dom.js";
import { clock, counted, number } from "./format.js";
import { command, refusal, section, tell } from "./parts.js";

/** @typedef {import("./actions.js").Submission} Submission */

const FIRST_ERRORS = 20;
const MOST_ERRORS = 1_000;

/** Draw only if the key differs, so that a selection or an open item is kept. @param {Element} place @param {string} key @param {() => import("./dom.js").Child} make */
function drawn(place, key, make) {
  if (/** @type {HTMLElement} */ (place).dataset.key === key) return;
  /** @type {HTMLElement} */ (place).dataset.key = key;
  replace(place, make());
}

/** @param {string} title @param {string} text */
const trace = (title, text) => h("pre", { class: "trace", tabindex: 0, role: "region", "aria-label": title }, text);

/** The failure of the submission, or of its last failed attempt. @param {Element} place @param {Submission} of */
export function failureOf(place, of) {
  const failure = of.failure ?? of.last_failure;
  const reason = of.state === "in_progress" ? of.release_reason : null;
  drawn(place, JSON.stringify([of.state, failure, reason && of.released_at]), () => {
    if (reason && !(failure && failure.at > (of.released_at ?? ""))) {
      const box = section("Last release",
        h("p", { class: "strong" }, reason),
        h("p", { class: "note" }, `At ${clock(of.released_at ?? "")}. No attempt was used; the chunk will be retried.`));
      box.classList.add("failure", "passing");
      return box;
    }
    if (!failure) return null;
    const isFinal = of.failure !== null;
    const title = isFinal ? "Failure" : "Last failed attempt";
    const where = of.chunks_failed || !isFinal
      ? `Chunk ${number(failure.chunk_index)}, attempt ${number(failure.attempt)} of ${number(of.max_attempts)}, at ${clock(failure.at)}`
      : `At ${clock(failure.at)}`;
    const box = section(title,
      h("p", { class: "strong" }, failure.type ? `${failure.type}: ${failure.message}` : failure.message),
      h("p", { class: "note" }, where, isFinal ? "" : of.state === "in_progress" ? ". The chunk will be retried." : ""),
      failure.traceback && trace("Traceback", failure.traceback.trimEnd()));
    box.classList.add("failure", isFinal ? "final" : "passing");
    return box;
  });
}

/**
 * The first errors of single operations: `update(submission)`. While more arrive, the shown ones keep
 * their state, opened or not.
 * @param {AbortSignal} signal
 */
export function errorsList(signal) {
  const summary = h("p", {});
  const list = h("ol", { class: "errors" });
  const note = h("p", { class: "note" });
  const errorBox = h("div", { hidden: true });
  const more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => {
    limit = MOST_ERRORS;
    read();
  } }, "Show more");
  const node = section("Errors of operations", summary, errorBox, list, note, more);
  let limit = FIRST_ERRORS;
  let isFull = false;
  let readAt = 0;
  /** @type {Submission} */
  let of;

  async function read() {
    readAt = of.operations_failed;
    try {
      const { found, hasMore } = await lines(`${submissionPath(of.queue, of.id)}/errors`, limit, signal);
      isFull = hasMore;
      reconcile(list, found, (error) => `${error.index}/${error.message}`, (error) => ({
        node: h("li", {}, h("details", {},
          h("summary", {}, h("span", { class: "mono" }, `Operation ${number(error.index)}`), " ",
            h("span", {}, error.type ? `${error.type}: ${error.message}` : error.message)),
          h("p", { class: "note" }, `In chunk ${number(error.chunk_index)}`),
          error.traceback ? trace(`Traceback of operation ${error.index}`, error.traceback.trimEnd()) : h("p", {}, "It has no traceback."))),
        update: () => undefined,
      }));
      show(more, hasMore && limit < MOST_ERRORS);
      setText(note, hasMore ? `The first ${number(found.length)}.` : "");
      show(errorBox, false);
    } catch (error) {
      if (signal.aborted || error instanceof Unreachable) return;
      replace(errorBox, refusal(error, "Errors", read));
      show(errorBox, true);
    }
  }

  show(node, false);
  return {
    node,
    /** @param {Submission} now */
    update(now) {
      of = now;
      show(node, of.operations_failed > 0);
      setText(summary, `${counted(of.operations_failed, "operation")} of finished chunks failed; the others have results.`);
      // Once the list is full, later errors do not appear in it.
      if (of.operations_failed > 0 && of.operations_failed !== readAt && !isFull) read();
    },
  };
}

/** The address of the results. @param {Element} place @param {Submission} of */
export function resultsOf(place, of) {
  drawn(place, JSON.stringify([of.state, of.operations_failed, Boolean(token.get())]), () => {
    if (of.state !== "completed") return null;
    const path = `${submissionPath(of.queue, of.id)}/results${of.operations_failed ? "?errors=yield" : ""}`;
    const name = `${of.queue}-${of.id}.ndjson`;
    const link = h("a", { class: "button", href: path, download: name, onclick: async (/** @type {Event} */ event) => {
      if (!token.get()) return;
      // A link does not send the token.
      event.preventDefault();
      try {
        const address = URL.createObjectURL(await (await request(path)).blob());
        h("a", { href: address, download: name }).click();
        setTimeout(() => URL.revokeObjectURL(address), 60_000);
      } catch (error) {
        tell(`The results can't be downloaded: ${error instanceof Error ? error.message : error}`);
      }
    } }, "Download results");
    const header = token.get() ? `-H "authorization: Bearer $TOKEN" ` : "";
    return section("Results",
      h("p", {}, of.operations_failed
        ? "A line of JSON for each operation, in order: an object with either its result or its error."
        : "A line of JSON for each operation, in order."),
      h("p", {}, link), command(`curl ${header}"${location.origin}${path}"`));
  });
}
