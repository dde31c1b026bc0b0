/** One queue: its numbers, its submissions, its workers. */

import { pauseOrResume } from "./actions.js";
import { h, replace, setText, show } from "./dom.js";
import { counted, duration, number, rate } from "./format.js";
import { SAMPLES, counts, keepCounts, pastBacklog, pastRates } from "./history.js";
import { submissionList } from "./list.js";
import { Unreachable } from "./api.js";
import { followLive, throttled } from "./live.js";
import { refusal, section, setBadge, sparkline, tile } from "./parts.js";
import { backlogOf, stateOf } from "./queues.js";
import { cutNote, noWorkers, readWorkers, workersTable } from "./workers.js";

/** @param {string} queue @param {URLSearchParams} query @param {AbortSignal} signal */
export function queueView(queue, query, signal) {
  const state = h("span", { class: "badge" });
  const pause = h("button", { type: "button", id: "pause", disabled: true, onclick: async () => {
    if (await pauseOrResume(queue, counts.get(queue)?.is_paused ?? false)) draw();
  } }, "Pause");
  const tiles = {
    backlog: tile("Backlog", "Operations that are not done yet"),
    rate: tile("Rate", "Operations done per second, over the last minute"),
    left: tile("Time left", "Time for the backlog at this rate"),
    hand: tile("Reserved", "Chunks reserved by workers"),
    delayed: tile("Delayed", "Chunks that wait for another attempt"),
    ended: tile("Completed", "Completed submissions whose retention has not ended"),
  };
  const backlogLine = sparkline(`Backlog of ${queue} in the last 90 seconds`, "backlog");
  const rateLine = sparkline(`Rate of ${queue} in the last 90 seconds`);
  tiles.backlog.node.append(backlogLine.node);
  tiles.rate.node.append(rateLine.node);

  const refused = h("div", { hidden: true });
  const submissions = submissionList(queue, query, signal);
  const workers = workersTable(false);
  const workersPlace = h("div", {});
  const cut = cutNote();
  const node = h("div", {},
    h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", { href: "#/" }, "Queues"), " / ", queue),
    h("div", { class: "heading" }, h("h1", { tabindex: -1 }, queue), state, h("div", { class: "buttons" }, pause)),
    refused,
    h("dl", { class: "tiles" }, Object.values(tiles).map((of) => of.node)),
    section("Submissions", submissions.node),
    section("Workers", workersPlace, cut));

  function draw() {
    const body = counts.get(queue);
    if (!body) return;
    const backlog = backlogOf(body);
    const [kind, text] = stateOf(body);
    setBadge(state, kind, text);
    pause.disabled = false;
    setText(pause, body.is_paused ? "Resume" : "Pause");
    tiles.backlog.update(number(backlog.operations), `${counted(backlog.chunks, "chunk")}, ${counted(body.submissions.in_progress ?? 0, "submission")}`);
    tiles.rate.update(rate(body.operations_per_second), rate(body.chunks_per_second).replace("/", " chunks/"));
    const isMoving = backlog.operations > 0 && body.operations_per_second > 0;
    tiles.left.update(isMoving ? duration(backlog.operations / body.operations_per_second) : "–",
      body.is_paused ? "paused" : backlog.operations && !isMoving ? "no progress" : "");
    tiles.hand.update(number(body.chunks_in_hand), counted(body.workers, "worker"));
    tiles.delayed.update(number(body.chunks_delayed), body.stats.chunks_retried ? `${number(body.stats.chunks_retried)} retried so far` : "");
    tiles.ended.update(number(body.submissions.completed ?? 0),
      `${number(body.submissions.failed ?? 0)} failed, ${number(body.submissions.cancelled ?? 0)} cancelled`);
    backlogLine.update(pastBacklog(queue), SAMPLES);
    rateLine.update(pastRates(queue), SAMPLES);
  }

  const readingWorkers = throttled(async () => {
    try {
      const found = await readWorkers(queue, signal);
      workers.update(found.workers);
      show(cut, found.isCut);
      const wanted = found.workers.length ? workers.node : null;
      if (!wanted) replace(workersPlace, noWorkers());
      else if (workersPlace.firstChild !== wanted) replace(workersPlace, wanted);
    } catch (error) {
      if (signal.aborted || error instanceof Unreachable) return;
      replace(workersPlace, refusal(error, "Workers", readingWorkers.poke));
    }
  }, { everyMs: 1_500, atLeastMs: 5_000, signal });

  let before = "";
  const timer = setInterval(draw, 1_000);
  signal.addEventListener("abort", () => clearInterval(timer));
  draw();
  readingWorkers.run();
  followLive(`v1/queues/${encodeURIComponent(queue)}/events`, {
    signal,
    refused,
    what: `Queue ${queue}`,
    onOpen: submissions.poke,
    onEvent: (name, data) => {
      if (name === "counts") {
        keepCounts(data);
        draw();
        const now = [data.chunks_in_hand, data.workers].join();
        if (now !== before) readingWorkers.poke();
        before = now;
      }
      submissions.poke();
    },
  });
  show(refused, false);
  return { title: queue, node };
}
