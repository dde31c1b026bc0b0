/** The workers of one queue or of all, with the chunks they hold. */

import { Unreachable, get, queuePath } from "./api.js";
import { h, reconcile, replace, setText, show, table } from "./dom.js";
import { counted, duration, number } from "./format.js";
import { counts, keepCounts } from "./history.js";
import { followLive, throttled } from "./live.js";
import { ago, badge, command, empty, refusal, setBadge } from "./parts.js";
import { queueAddress } from "./queues.js";

const SHOWN = 5;

/**
 * @typedef {{submission_id: string, index: number, attempt: number, worker: string, reserved_at: string, expires_at: string}} Held
 * @typedef {{queue: string, name: string, seen_ms_ago: number, info: Record<string, any>, chunks_in_hand: number,
 *   oldest_ms: number | null, held: Held[], readAt: number}} Worker
 */

/** A note below a list that does not have all workers. */
export const cutNote = () => h("p", { class: "note", hidden: true }, "A queue has more workers: only those that were seen last are listed.");

/**
 * Read the workers of a queue with the chunks they hold.
 * @param {string} queue @param {AbortSignal} signal @returns {Promise<{workers: Worker[], isCut: boolean}>}
 */
export async function readWorkers(queue, signal) {
  const [{ workers, is_cut: isCut }, { reservations }] = await Promise.all([
    get(`${queuePath(queue)}/workers`, signal),
    get(`${queuePath(queue)}/reservations?limit=500`, signal),
  ]);
  return {
    isCut: Boolean(isCut),
    workers: workers.map((/** @type {any} */ worker) => ({
      ...worker,
      queue,
      readAt: Date.now(),
      held: reservations.filter((/** @type {Held} */ held) => held.worker === worker.name),
    })),
  };
}

/** A table of workers: `update(workers)`. @param {boolean} hasQueue whether it has a column for the queue */
export function workersTable(hasQueue) {
  const list = table("Workers", [
    { title: "Worker", class: "name" },
    ...(hasQueue ? [{ title: "Queue" }] : []),
    { title: "State" },
    { title: "Seen", class: "n" },
    { title: "Reserved", class: "n" },
    { title: "Holds", class: "holds" },
  ]);

  /** @param {Worker} first */
  function makeRow(first) {
    const state = h("span", { class: "badge" });
    const [seen, held] = [h("span", {}), h("span", {})];
    const holds = h("ul", { class: "plain" });
    const { host, pid, version } = first.info;
    const about = [host && `host ${host}`, pid && `pid ${pid}`, version && `version ${version}`].filter(Boolean).join(", ");
    const row = list.row([
      h("span", { title: about || null }, h("span", { class: "mono" }, first.name), about && h("span", { class: "note" }, about)),
      ...(hasQueue ? [h("a", { href: queueAddress(first.queue) }, first.queue)] : []),
      state, seen, held, holds,
    ]);
    return {
      node: row,
      update(/** @type {Worker} */ worker) {
        const { problem, children_ready: ready, children_wanted: wanted } = worker.info;
        const [kind, text] = worker.seen_ms_ago > 15_000 ? ["waiting", "Silent"]
          : problem ? ["failed", `${ready} of ${wanted} children`]
            : worker.chunks_in_hand ? ["in_progress", "Working"] : ["idle", "Idle"];
        setBadge(state, kind, text);
        state.title = problem || "";
        setText(seen, worker.seen_ms_ago < 1_000 ? "now" : `${duration(worker.seen_ms_ago / 1000)} ago`);
        setText(held, number(worker.chunks_in_hand));
        const rest = worker.chunks_in_hand - Math.min(SHOWN, worker.held.length);
        /** @type {(Held | {rest: number})[]} */
        const items = [...worker.held.slice(0, SHOWN), ...(rest > 0 ? [{ rest }] : [])];
        reconcile(holds, items, (item) => "rest" in item ? "rest" : `${item.submission_id}/${item.index}/${item.attempt}`, (item) => {
          const node = h("li", {});
          if (!("rest" in item)) {
            replace(node, h("a", { href: `${queueAddress(worker.queue)}/submissions/${item.submission_id}`, title: `Submission ${item.submission_id}` },
              `chunk ${number(item.index)} of …${item.submission_id.slice(-9)}`), " since ", ago(item.reserved_at, ""),
              item.attempt > 1 && [" ", badge("waiting", `attempt ${item.attempt}`)]);
          }
          return { node, update: (now) => {
            if ("rest" in now) setText(node, `and ${number(now.rest)} more`);
          } };
        });
        if (!items.length) setText(holds, "");
      },
    };
  }

  return {
    node: list.node,
    /** @param {Worker[]} workers */
    update(workers) {
      reconcile(list.body, workers, (worker) => `${worker.queue}/${worker.name}`, makeRow);
    },
  };
}

/** Shown if there is no worker. */
export const noWorkers = () => empty("No workers",
  h("p", {}, "Start one with the same Redis and store, with your handlers in app.py:"),
  command("opsqueue-worker app:app"));

/** All workers of all queues. @param {AbortSignal} signal */
export function workersView(signal) {
  const list = workersTable(true);
  const nothing = h("div", { hidden: true }, noWorkers());
  const refused = h("div", { hidden: true });
  const summary = h("p", { class: "summary" });
  const cut = cutNote();
  const node = h("div", {}, h("div", { class: "heading" }, h("h1", { tabindex: -1 }, "Workers"), summary), refused, nothing, list.node, cut);
  show(list.node, false);

  const reading = throttled(async () => {
    try {
      const queues = [...counts.values()].filter((body) => body.workers > 0 || body.chunks_in_hand > 0);
      const lists = await Promise.all(queues.map((body) => readWorkers(body.queue, signal)));
      const workers = lists.flatMap((one) => one.workers);
      show(cut, lists.some((one) => one.isCut));
      const names = new Set(workers.map((worker) => worker.name)).size;
      const held = workers.reduce((sum, worker) => sum + worker.chunks_in_hand, 0);
      workers.sort((a, b) => a.name.localeCompare(b.name) || a.queue.localeCompare(b.queue));
      list.update(workers);
      show(list.node, workers.length > 0);
      show(nothing, counts.size > 0 && workers.length === 0);
      setText(summary, names ? `${counted(names, "worker")}, ${counted(held, "chunk")} reserved` : "");
      show(refused, false);
    } catch (error) {
      if (signal.aborted || error instanceof Unreachable) return;
      replace(refused, refusal(error, "Workers"));
      show(refused, true);
    }
  }, { everyMs: 1_500, atLeastMs: 5_000, signal });

  followLive("v1/events", {
    signal,
    refused,
    what: "Workers of all queues",
    onEvent: (name, data) => {
      if (name !== "counts") return;
      keepCounts(data);
      reading.poke();
    },
  });
  const wait = setTimeout(() => show(nothing, refused.hidden && list.node.hidden), 1_500);
  signal.addEventListener("abort", () => clearTimeout(wait));
  return { title: "Workers", node };
}

