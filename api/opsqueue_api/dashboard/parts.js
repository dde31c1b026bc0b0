/** Small parts of several views: badges, bars, sparklines, tiles, refusals. */

import { Problem } from "./api.js";
import { h, replace, setAttribute, setText, svg } from "./dom.js";
import { age, clock, number, percent, stateName } from "./format.js";

/** A submission's or a queue's state. @param {string} state @param {string} [text] */
export function badge(state, text = stateName(state)) {
  return h("span", { class: `badge ${state}` }, text);
}

/** @param {Element} element @param {string} state @param {string} [text] */
export function setBadge(element, state, text = stateName(state)) {
  setAttribute(element, "class", `badge ${state}`);
  setText(element, text);
}

/** The share that is done, as a bar with a number: `update(done, total, failed)`. @param {string} label */
export function bar(label) {
  const good = h("span", { class: "good" });
  const bad = h("span", { class: "bad" });
  const text = h("span", { class: "share" });
  const track = h("span", { class: "track", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": label }, good, bad);
  const node = h("span", { class: "bar" }, track, text);
  return {
    node,
    /** @param {number} done @param {number} total @param {number} failed @param {string} state */
    update(done, total, failed, state) {
      const share = total === 0 ? 1 : done / total;
      const wrong = total === 0 ? 0 : failed / total;
      good.style.width = `${100 * (share - wrong)}%`;
      bad.style.width = wrong > 0 ? `max(2px, ${100 * wrong}%)` : "0";
      setAttribute(node, "data-state", state);
      setAttribute(track, "aria-valuenow", Math.floor(100 * share));
      setAttribute(track, "aria-valuetext", `${number(done)} of ${number(total)}`);
      setText(text, percent(done, total));
    },
  };
}

const WIDE = 120;
const HIGH = 28;

/** A number's recent values as a line: `update(values)`. @param {string} label @param {string} [kind] */
export function sparkline(label, kind = "") {
  const base = svg("path", { class: "base", d: `M0,${HIGH - 1}H${WIDE}` });
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const node = svg("svg", { class: `spark ${kind}`, viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, base, area, line);
  return {
    node,
    /** @param {number[]} values oldest first @param {number} room the number of values that fit */
    update(values, room) {
      const most = Math.max(...values, 0);
      const step = WIDE / Math.max(1, room - 1);
      const from = WIDE - step * (values.length - 1);
      const points = values.map((value, i) =>
        `${(from + i * step).toFixed(1)},${(HIGH - 1 - (most ? value / most : 0) * (HIGH - 4)).toFixed(1)}`);
      setAttribute(line, "d", points.length > 1 && most ? `M${points.join("L")}` : "");
      setAttribute(area, "d", points.length > 1 && most ? `M${from.toFixed(1)},${HIGH}L${points.join("L")}L${WIDE},${HIGH}Z` : "");
    },
  };
}

/** A number with its title: `update(value, note)`. @param {string} title @param {string} [about] */
export function tile(title, about) {
  const value = h("dd", {}, "–");
  const note = h("dd", { class: "note" });
  return {
    node: h("div", { class: "tile", title: about }, h("dt", {}, title), value, note),
    value,
    /** @param {import("./dom.js").Child} text @param {import("./dom.js").Child} [more] */
    update(text, more = "") {
      setText(value, text);
      setText(note, more);
    },
  };
}

/** An instant with its age, which `turnAges` updates. @param {string} instant */
export function ago(instant, suffix = " ago") {
  return h("time", { datetime: instant, title: clock(instant), "data-age": suffix }, age(instant) + suffix);
}

/** Update the ages of all instants. */
export function turnAges() {
  for (const element of document.querySelectorAll("time[data-age]")) {
    const of = /** @type {HTMLTimeElement} */ (element);
    setText(of, age(of.dateTime) + (of.dataset.age ?? ""));
  }
}

/** A command to copy. @param {string} text */
export function command(text) {
  const button = h("button", { type: "button", class: "quiet small" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      setText(button, "Copied");
    } catch {
      setText(button, "Select it");
    }
    setTimeout(() => setText(button, "Copy"), 2_000);
  });
  return h("div", { class: "command" }, h("pre", { tabindex: 0 }, h("code", {}, text)), button);
}

/** A placeholder for an empty list. @param {string} title @param {...import("./dom.js").Child} rest */
export function empty(title, ...rest) {
  return h("div", { class: "empty" }, h("p", { class: "strong" }, title), rest);
}

/** The reason why something is not shown. @param {unknown} error @param {string} what @param {() => void} [again] */
export function refusal(error, what, again) {
  const problem = error instanceof Problem ? error : null;
  const needed = problem?.scopes.length ? `The scope ${problem.scopes.join(" or ")} is required.` : "";
  const title = {
    401: `${what}: the API requires a token`,
    403: `${what}: this token does not give access`,
    404: `${what}: not found`,
  }[problem?.status ?? 0] ?? `${what}: no answer`;
  return h("div", { class: "refusal", role: "group" },
    h("p", { class: "strong" }, title),
    h("p", {}, problem ? problem.message : "The API does not answer.", needed && ` ${needed}`),
    again && h("p", {}, h("button", { type: "button", onclick: again }, problem?.status === 401 ? "Enter a token" : "Try again")));
}

/** A section with its heading. @param {string} title @param {...import("./dom.js").Child} children */
export function section(title, ...children) {
  const id = `s-${title.toLowerCase().replaceAll(/\W+/g, "-")}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
}

/** Show a message for a moment, also to screen readers. @param {string} text */
export function tell(text) {
  const place = /** @type {HTMLElement} */ (document.getElementById("told"));
  replace(place, h("p", {}, text));
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => replace(place), 6_000);
}
tell.timer = 0;
