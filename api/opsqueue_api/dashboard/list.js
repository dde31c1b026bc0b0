/** The submissions of a queue: filters, and a page with the state of each. */

import { Unreachable, get, queuePath } from "./api.js";
import { h, reconcile, replace, setAttribute, setText, show, table } from "./dom.js";
import { duration, keyOf, keyText, number, rate } from "./format.js";
import { pace } from "./history.js";
import { throttled } from "./live.js";
import { ago, bar, command, empty, refusal, setBadge } from "./parts.js";
import { queueAddress } from "./queues.js";

const LIMIT = 25;
const STATES = [["any", "Any state"], ["in_progress", "In progress"], ["completed", "Completed"], ["failed", "Failed"], ["cancelled", "Cancelled"]];
const AGES = [["", "Any age"], ["1h", "Last hour"], ["24h", "Last 24 hours"], ["7d", "Last 7 days"], ["older", "Older than a day"]];
const PAIRS = /("(?:[^"\\]|\\.)*"|[^\s,"]+):(0|-?[1-9]\d{0,18})(?=[\s,]|$)|[^\s,]+/g;

/** Read `customer:7 "any key":8`: pairs as the API has them, and what is none. @param {string} text */
function pairsOf(text) {
  const found = { pairs: /** @type {string[]} */ ([]), bad: "" };
  for (const [part, keyPart, value] of text.matchAll(PAIRS)) {
    const key = keyPart === undefined ? null : keyOf(keyPart);
    if (key === null) found.bad ||= part;
    else found.pairs.push(`${key}:${value}`);
  }
  return found;
}

/** The API's query for the filters in the address. @param {URLSearchParams} query */
function wantedOf(query) {
  const wanted = new URLSearchParams({ state: query.get("state") ?? "any", limit: String(LIMIT) });
  for (const pair of pairsOf(query.get("meta") ?? "").pairs) wanted.append("meta", pair);
  const hoursAgo = (/** @type {number} */ hours) => new Date(Date.now() - hours * 3_600_000).toISOString();
  const age = query.get("age");
  if (age === "1h") wanted.set("created_from", hoursAgo(1));
  if (age === "24h") wanted.set("created_from", hoursAgo(24));
  if (age === "7d") wanted.set("created_from", hoursAgo(7 * 24));
  if (age === "older") wanted.set("created_until", hoursAgo(24));
  const after = query.get("after");
  if (after) wanted.set("after", after);
  return wanted;
}

/**
 * @param {string} queue @param {URLSearchParams} query @param {AbortSignal} signal
 * @returns {{node: Element, poke: () => void}} `poke` reads the list again soon
 */
export function submissionList(queue, query, signal) {
  /** @param {Record<string, string>} changes */
  const address = (changes) => {
    const next = new URLSearchParams(query);
    next.delete("after");
    for (const [name, value] of Object.entries(changes)) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    const text = next.toString().replaceAll("%3A", ":");
    return queueAddress(queue) + (text ? `?${text}` : "");
  };
  /** @param {string} id @param {string[][]} choices @param {string} chosen */
  const choice = (id, choices, chosen) => h("select", { id, onchange: (/** @type {any} */ event) => {
    location.hash = address({ [id]: event.target.value === choices[0][0] ? "" : event.target.value });
  } }, choices.map(([value, title]) => h("option", { value, selected: value === chosen }, title)));
  const meta = h("input", { id: "meta", value: query.get("meta") ?? "", placeholder: "customer:7", spellcheck: "false", autocapitalize: "off", autocomplete: "off" });
  const wrong = h("p", { class: "error", role: "alert", hidden: true });
  const filters = h("form", { class: "filters", "aria-label": "Which submissions", onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    const { bad } = pairsOf(meta.value);
    setText(wrong, bad ? `“${bad}” is not a pair: enter KEY:INTEGER, such as customer:7 or "any key":7` : "");
    show(wrong, Boolean(bad));
    if (!bad) location.hash = address({ meta: meta.value.trim() });
  } },
    h("div", {}, h("label", { for: "state" }, "State"), choice("state", STATES, query.get("state") ?? "any")),
    h("div", {}, h("label", { for: "age" }, "Created"), choice("age", AGES, query.get("age") ?? "")),
    h("div", {}, h("label", { for: "meta" }, "Strategic metadata"), meta),
    h("div", {}, h("button", { type: "submit" }, "Filter")), wrong);

  const list = table("Submissions", [
    { title: "Submission", class: "name" },
    { title: "State" },
    { title: "Progress", class: "progress" },
    { title: "Operations", class: "n" },
    { title: "Rate", class: "n" },
    { title: "Time left", class: "n" },
    { title: "Metadata", class: "meta" },
    { title: "Created", class: "n" },
  ]);
  const errorBox = h("div", { hidden: true });
  const nothing = h("div", { hidden: true });
  const newest = h("a", { class: "button quiet", hidden: true, href: address({}) }, "← Newest");
  const older = h("a", { class: "button quiet", hidden: true }, "Older →");
  const pages = h("nav", { class: "pages", "aria-label": "Pages of submissions" }, newest, older);
  show(list.node, false);

  /** @param {import("./actions.js").Submission} first */
  function makeRow(first) {
    const state = h("span", { class: "badge" });
    const progress = bar(`Progress of submission ${first.id}`);
    const [total, failed, perSecond, left, pairs] = Array.from({ length: 5 }, () => h("span", {}));
    failed.className = "note bad";
    const node = list.row([
      h("a", { class: "mono", href: `${queueAddress(queue)}/submissions/${first.id}` }, first.id),
      state, progress.node, h("span", {}, total, failed), perSecond, left, pairs, ago(first.created_at),
    ]);
    return {
      node,
      update(/** @type {import("./actions.js").Submission} */ of) {
        const isRunning = of.state === "in_progress";
        const speed = isRunning ? pace(of.id, of.operations_done) : null;
        setBadge(state, of.state);
        progress.update(of.operations_done, of.operations_total, of.operations_failed, of.state);
        setText(total, number(of.operations_total));
        setText(failed, of.operations_failed ? `${number(of.operations_failed)} failed` : "");
        setText(perSecond, rate(speed));
        setText(left, speed ? duration((of.operations_total - of.operations_done) / speed) : "–");
        setText(pairs, Object.entries(of.strategic_metadata).map(([key, value]) => `${keyText(key)}:${value}`).join(" "));
      },
    };
  }

  const reading = throttled(async () => {
    try {
      const page = await get(`${queuePath(queue)}/submissions?${wantedOf(query)}`, signal);
      const isFiltered = ["state", "meta", "age", "after"].some((name) => query.get(name));
      show(errorBox, false);
      show(list.node, page.submissions.length > 0);
      show(nothing, page.submissions.length === 0);
      if (page.submissions.length === 0) replace(nothing, page.next ? looking() : isFiltered ? noneFits() : none());
      reconcile(list.body, page.submissions, (/** @type {any} */ of) => of.id, makeRow);
      show(newest, Boolean(query.get("after")));
      show(older, Boolean(page.next));
      if (page.next) setAttribute(older, "href", address({ after: page.next }));
    } catch (error) {
      if (signal.aborted || error instanceof Unreachable) return;
      replace(errorBox, refusal(error, "Submissions", reading.poke));
      show(errorBox, true);
    }
  }, { everyMs: 1_000, atLeastMs: 10_000, signal });

  const looking = () => empty("None on this page: the list continues with older ones");
  const noneFits = () => empty("No matching submissions", h("p", {}, h("a", { href: queueAddress(queue) }, "Show all")));
  const none = () => empty("No submissions yet", h("p", {}, "Insert one:"),
    command(`curl --json '{"operations": [1, 2, 3], "chunk_size": 2}' \\\n  ${location.origin}${queuePath(queue)}/submissions`));

  reading.run();
  return { node: h("div", {}, filters, errorBox, nothing, list.node, pages), poke: reading.poke };
}
