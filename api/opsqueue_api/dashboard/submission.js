/** One submission: its progress, chunks, failures and actions. */

import { cancel, changeMetadata, retry, retryOnlyFailed } from "./actions.js";
import { Problem, Unreachable, get, queuePath, submissionPath } from "./api.js";
import { h, reconcile, replace, setText, show } from "./dom.js";
import { errorsList, failureOf, resultsOf } from "./outcome.js";
import { clock, counted, duration, keyText, number, rate } from "./format.js";
import { chunkGrid } from "./grid.js";
import { pace } from "./history.js";
import { followLive, throttled } from "./live.js";
import { ago, bar, command, empty, refusal, section, setBadge, tile } from "./parts.js";
import { queueAddress } from "./queues.js";

/** @typedef {import("./actions.js").Submission} Submission */

/** @param {string} queue @param {string} id @param {AbortSignal} signal */
export function submissionView(queue, id, signal) {
  const path = submissionPath(queue, id);
  /** @type {Submission | null} */
  let current = null;
  const state = h("span", { class: "badge" });
  const act = (/** @type {(of: Submission) => Promise<any>} */ action) => async () => {
    if (current && (await action(current))) reading.poke();
  };
  const cancelIt = h("button", { type: "button", id: "cancel", hidden: true, onclick: act(cancel) }, "Cancel");
  const retryIt = h("button", { type: "button", id: "retry", hidden: true, onclick: act(retry) }, "Retry");
  const retryFailed = h("button", { type: "button", id: "retry-failed", hidden: true, onclick: act(async (of) => {
    const made = await retryOnlyFailed(of);
    if (made) location.hash = `${queueAddress(queue)}/submissions/${made}`;
  }) }, "Retry only failed");
  const progress = bar(`Progress of submission ${id}`);
  progress.node.classList.add("big");
  const tiles = {
    operations: tile("Operations"), chunks: tile("Chunks"), rate: tile("Rate", "Operations per second, over the last minute"),
    left: tile("Time left", "At this rate"), created: tile("Created"), ended: tile("Ended"),
  };
  const errorBox = h("div", { hidden: true });
  const failure = h("div", {});
  const errors = errorsList(signal);
  const results = h("div", {});
  const grid = chunkGrid();
  const gridErrorBox = h("div", { hidden: true });
  const edit = h("button", { type: "button", id: "metadata", hidden: true, onclick: act(changeMetadata) }, "Change");
  const pairs = h("ul", { class: "tags" });
  const details = h("dl", { class: "details" });
  const content = h("div", { hidden: true },
    h("div", { class: "panel" }, progress.node, h("dl", { class: "tiles" }, Object.values(tiles).map((of) => of.node))),
    failure,
    section("Chunks", gridErrorBox, grid.node),
    errors.node, results,
    section("Strategic metadata", h("div", { class: "row" }, pairs, edit)),
    section("Details", details));
  const node = h("div", {},
    h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", { href: "#/" }, "Queues"), " / ", h("a", { href: queueAddress(queue) }, queue), " / submission"),
    h("div", { class: "heading" }, h("h1", { tabindex: -1, class: "mono" }, id), state, h("div", { class: "buttons" }, retryFailed, retryIt, cancelIt)),
    errorBox, content);

  /** @type {{perSecond: number | null, left: number | null}} */
  let reported = { perSecond: null, left: null };

  /** @param {Partial<Submission>} of the progress, from an event or from the status */
  function drawProgress(of) {
    const { operations_done = 0, operations_total = 0, operations_failed = 0, chunks_done = 0, chunks_total = 0, chunks_in_hand = 0, state: kind = "" } = of;
    const isRunning = kind === "in_progress";
    setBadge(state, kind);
    progress.update(operations_done, operations_total, operations_failed, kind);
    tiles.operations.update(`${number(operations_done)} / ${number(operations_total)}`, operations_failed ? `${number(operations_failed)} failed` : "");
    tiles.chunks.update(`${number(chunks_done)} / ${number(chunks_total)}`, isRunning ? `${number(chunks_in_hand)} reserved` : "");
    const speed = isRunning ? (reported.perSecond ?? pace(id, operations_done)) : null;
    tiles.rate.update(rate(speed));
    tiles.left.update(isRunning && speed ? duration(reported.left ?? (operations_total - operations_done) / speed) : "–");
  }

  /** @param {Submission} of */
  function draw(of) {
    const isRunning = of.state === "in_progress";
    const hasEndedBadly = of.state === "failed" || of.state === "cancelled";
    drawProgress(of);
    show(cancelIt, isRunning);
    show(retryIt, hasEndedBadly);
    show(retryFailed, !isRunning && of.operations_failed > 0);
    show(edit, isRunning);
    if (!tiles.created.value.querySelector("time")) replace(tiles.created.value, ago(of.created_at));
    if (of.ended_at) {
      tiles.ended.update(clock(of.ended_at), `after ${duration((Date.parse(of.ended_at) - Date.parse(of.created_at)) / 1000)}`);
    } else tiles.ended.update("–");
    failureOf(failure, of);
    errors.update(of);
    resultsOf(results, of);
    const metadata = Object.entries(of.strategic_metadata);
    reconcile(pairs, metadata.length ? metadata : [["", ""]], ([key]) => key, () => {
      const item = h("li", {});
      return { node: item, update: ([key, value]) => setText(item, key ? `${keyText(key)}: ${value}` : "none") };
    });
    drawDetails(of);
    show(content, true);
  }

  /** @param {Submission} of */
  function drawDetails(of) {
    const traceId = /^[0-9a-f]{2}-([0-9a-f]{32})-/.exec(of.trace_context.traceparent ?? "")?.[1];
    const rows = /** @type {[string, string][]} */ ([
      ["Trace id", traceId ?? "none"],
      ["Chunk size", counted(of.chunk_size, "operation")],
      ["Attempts", `at most ${number(of.max_attempts)} per chunk`],
      ["Failed operations", of.max_failed_operations === null ? "any number" : `at most ${number(of.max_failed_operations)}, otherwise the submission fails`],
      ["Contents", of.is_inline ? "in Redis, since the submission is small" : "in the object store"],
      ["Prefix", of.prefix],
      ["Codec", of.codec],
      ["Metadata", of.metadata ? `${number(Math.floor((of.metadata.replaceAll("=", "").length * 3) / 4))} bytes (base64): ${of.metadata.slice(0, 400)}` : "none"],
      ["Created", clock(of.created_at)],
    ]);
    reconcile(details, rows, ([name]) => name, ([name]) => {
      const value = h("dd", { class: ["Trace id", "Prefix", "Metadata"].includes(name) ? "mono" : null });
      return { node: h("div", {}, h("dt", {}, name), value), update: ([, text]) => setText(value, text) };
    });
  }

  const reading = throttled(async () => {
    try {
      current = await get(path, signal);
      const was = isFollowing;
      show(errorBox, false);
      draw(/** @type {Submission} */ (current));
      if (current?.state === "in_progress" && !was) followIt();
      else if (current?.state !== "in_progress" && !was && !isListening) listen();
    } catch (error) {
      if (signal.aborted || error instanceof Unreachable) return;
      const isGone = error instanceof Problem && error.status === 404;
      replace(errorBox, isGone ? gone() : refusal(error, `Submission ${id}`, reading.poke));
      show(errorBox, true);
      if (isGone) show(content, false);
      return;
    }
    try {
      grid.update(await get(`${path}/chunks?cells=1000`, signal));
      show(gridErrorBox, false);
    } catch (error) {
      if (signal.aborted || error instanceof Unreachable) return;
      replace(gridErrorBox, refusal(error, "Chunks", reading.poke));
      show(gridErrorBox, true);
    }
  }, { everyMs: 1_000, atLeastMs: 3_000, signal });

  const gone = () => empty("Submission not found",
    h("p", {}, "Its retention may be over: a day after its end, unless the submission or its queue has another retention."),
    command("opsqueue retention"));

  let isFollowing = false;
  let isListening = false;

  async function followIt() {
    isFollowing = true;
    await followLive(`${path}/events`, {
      signal, refused: errorBox, what: `Submission ${id}`, onOpen: reading.poke,
      onEvent: (name, data) => {
        if (name === "progress") {
          reported = { perSecond: data.operations_per_second, left: data.remaining_s };
          drawProgress(data);
        }
        reading.poke();
        return name === "end";
      },
    });
    isFollowing = false;
    reported = { perSecond: null, left: null };
  }

  /** After its end only a retry changes it; its queue's events show that. */
  async function listen() {
    isListening = true;
    await followLive(`${queuePath(queue)}/events`, {
      signal, refused: errorBox, what: `Queue ${queue}`,
      onEvent: (name, data) => {
        const isOfIt = name === "submission" && data.id === id;
        if (isOfIt) reading.poke();
        return isOfIt && data.event === "retried";
      },
    });
    isListening = false;
  }

  reading.run();
  return { title: `Submission ${id}`, node };
}
