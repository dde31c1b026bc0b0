/** All queues: their contents and rates. */

import { h, reconcile, replace, setText, show, table } from "./dom.js";
import { counted, duration, number, rate } from "./format.js";
import { SAMPLES, counts, keepCounts, pastRates } from "./history.js";
import { followLive } from "./live.js";
import { command, empty, setBadge, sparkline } from "./parts.js";

/** @param {string} name */
export const queueAddress = (name) => `#/queues/${encodeURIComponent(name)}`;

/** The state of a queue as one word. @param {import("./history.js").Counts} body @returns {[string, string]} */
export function stateOf(body) {
  if (body.is_paused) return ["paused", "Paused"];
  const backlog = backlogOf(body);
  if (backlog.operations > 0 && body.workers === 0) return ["waiting", "No workers"];
  return backlog.operations > 0 ? ["in_progress", "Working"] : ["idle", "Idle"];
}

/** The backlog: everything that is not done yet. @param {import("./history.js").Counts} body */
export function backlogOf(body) {
  return {
    operations: Math.max(0, body.stats.backlog_operations ?? 0),
    chunks: Math.max(0, body.stats.backlog_chunks ?? 0),
  };
}

/** @param {URLSearchParams} query @param {AbortSignal} signal */
export function queuesView(query, signal) {
  let wanted = query.get("name") ?? "";
  const list = table("Queues", [
    { title: "Queue", class: "name" },
    { title: "State" },
    { title: "Backlog", class: "n" },
    { title: "Rate", class: "n" },
    { title: "Last 90 s", class: "chart" },
    { title: "Time left", class: "n" },
    { title: "Submissions", class: "n" },
    { title: "Workers", class: "n" },
  ]);
  const nothing = h("div", { hidden: true });
  const refused = h("div", { hidden: true });
  const summary = h("p", { class: "summary" });
  const field = h("input", { type: "search", id: "name", value: wanted, placeholder: "Part of a name", autocomplete: "off", oninput: () => {
    wanted = field.value.trim();
    history.replaceState(null, "", wanted ? `#/?name=${encodeURIComponent(wanted)}` : "#/");
    draw();
  } });
  const filter = h("form", { class: "filters", role: "search", hidden: true, onsubmit: (/** @type {Event} */ event) => event.preventDefault() },
    h("label", { for: "name" }, "Find a queue"), field);
  const node = h("div", {},
    h("div", { class: "heading" }, h("h1", { tabindex: -1 }, "Queues"), summary),
    filter, refused, nothing, list.node);
  show(list.node, false);

  let hasHeard = counts.size > 0;

  function draw() {
    const all = [...counts.values()].sort((a, b) => a.queue.localeCompare(b.queue));
    const found = all.filter((body) => body.queue.toLowerCase().includes(wanted.toLowerCase()));
    show(filter, all.length > 7 || wanted !== "");
    show(list.node, found.length > 0);
    show(nothing, hasHeard && found.length === 0);
    if (hasHeard && found.length === 0) {
      replace(nothing, all.length ? empty(`No queue has “${wanted}” in its name`) : firstSteps());
    }
    const operations = all.reduce((sum, body) => sum + backlogOf(body).operations, 0);
    const perSecond = all.reduce((sum, body) => sum + body.operations_per_second, 0);
    setText(summary, all.length ? `${counted(all.length, "queue")}, ${counted(operations, "operation")} to do, ${rate(perSecond)}` : "");
    reconcile(list.body, found, (body) => body.queue, makeRow);
  }

  /** @param {import("./history.js").Counts} first */
  function makeRow(first) {
    const state = h("span", { class: "badge" });
    const [backlog, chunks, perSecond, left, submissions, failed, workers] = Array.from({ length: 7 }, () => h("span", {}));
    chunks.className = failed.className = "note";
    const spark = sparkline(`Rate of ${first.queue} in the last 90 seconds`);
    const row = list.row([
      h("a", { href: queueAddress(first.queue) }, first.queue), state, h("span", {}, backlog, chunks), perSecond, spark.node, left,
      h("span", {}, submissions, failed), workers,
    ]);
    return {
      node: row,
      update(/** @type {import("./history.js").Counts} */ body) {
        const [kind, text] = stateOf(body);
        const of = backlogOf(body);
        setBadge(state, kind, text);
        setText(backlog, number(of.operations));
        setText(chunks, of.chunks ? counted(of.chunks, "chunk") : "");
        setText(perSecond, rate(body.operations_per_second));
        setText(left, of.operations && body.operations_per_second ? duration(of.operations / body.operations_per_second) : "–");
        setText(submissions, number(body.submissions.in_progress ?? 0));
        setText(failed, body.submissions.failed ? `${number(body.submissions.failed)} failed` : "");
        setText(workers, number(body.workers));
        spark.update(pastRates(body.queue), SAMPLES);
      },
    };
  }

  const timer = setInterval(draw, 1_000);
  signal.addEventListener("abort", () => clearInterval(timer));
  draw();
  const heard = setTimeout(() => {
    hasHeard = true;
    draw();
  }, 1_500);
  signal.addEventListener("abort", () => clearTimeout(heard));
  followLive("v1/events", {
    signal,
    refused,
    what: "The list of queues",
    onEvent: (name, data) => {
      if (name !== "counts") return;
      keepCounts(data);
      hasHeard = true;
      draw();
    },
  }).then(() => {
    if (signal.aborted || refused.hidden) return;
    clearTimeout(heard);
    clearInterval(timer);
    show(nothing, false);
    show(list.node, false);
    setText(summary, "");
    refused.append(byName());
  });
  return { title: "Queues", node };
}

/** A token for some queues has access to them, but not to the list of queues. */
function byName() {
  const field = h("input", { id: "queue-name", autocomplete: "off", spellcheck: "false" });
  return h("form", { class: "filters", onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    if (field.value.trim()) location.hash = queueAddress(field.value.trim());
  } },
    h("label", { for: "queue-name" }, "Open a queue by its name"), field, h("button", { type: "submit" }, "Open"));
}

function firstSteps() {
  return empty("No queues yet",
    h("p", {}, "A queue is created by its first submission. Insert one:"),
    command(`curl --json '{"operations": [1, 2, 3], "chunk_size": 2}' \\\n  ${location.origin}/v1/queues/default/submissions`),
    h("p", {}, "and start a worker for it, with your handler in app.py:"),
    command("opsqueue-worker app:app"));
}

