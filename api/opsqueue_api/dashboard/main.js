/** The page: choosing the view by the address, colours, the token. */

import { onUnauthenticated, token } from "./api.js";
import { askForToken } from "./dialogs.js";
import { h, replace, setAttribute, setText, show } from "./dom.js";
import { quiet } from "./live.js";
import { tell, turnAges } from "./parts.js";
import { queueView } from "./queue.js";
import { queuesView } from "./queues.js";
import { submissionView } from "./submission.js";
import { workersView } from "./workers.js";

const main = /** @type {HTMLElement} */ (document.getElementById("main"));

/**
 * A view: its title and elements; it follows the data that it shows until the signal.
 * @typedef {{title: string, node: Element}} View
 */

/** @type {[RegExp, string, (parts: string[], query: URLSearchParams, signal: AbortSignal) => View][]} */
const ROUTES = [
  [/^$/, "queues", (_parts, query, signal) => queuesView(query, signal)],
  [/^workers$/, "workers", (_parts, _query, signal) => workersView(signal)],
  [/^queues\/([^/]+)$/, "queues", ([queue], query, signal) => queueView(queue, query, signal)],
  [/^queues\/([^/]+)\/submissions\/(\d+)$/, "queues", ([queue, id], _query, signal) => submissionView(queue, id, signal)],
];

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

let current = new AbortController();

function showView() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const focused = document.activeElement?.id;
  const isFirst = !main.hasChildNodes();
  current.abort();
  current = new AbortController();
  quiet();
  /** @type {View} */
  let view = { title: "Not found", node: h("div", {}, h("h1", { tabindex: -1 }, "Not found"), h("p", {}, "There is no page at this address. ", h("a", { href: "#/" }, "All queues"))) };
  let place = "";
  for (const [pattern, name, make] of ROUTES) {
    const found = pattern.exec(path.replace(/\/$/, ""));
    if (!found) continue;
    place = name;
    view = make(found.slice(1).map(decoded), new URLSearchParams(query), current.signal);
  }
  document.title = `${view.title} – opsqueue`;
  for (const link of document.querySelectorAll("[data-nav]")) {
    setAttribute(link, "aria-current", /** @type {HTMLElement} */ (link).dataset.nav === place ? "page" : null);
  }
  replace(main, view.node);
  // A filter that was just used keeps the focus; otherwise the new view's heading gets it.
  const again = focused ? document.getElementById(focused) : null;
  if (again && main.contains(again)) again.focus();
  else if (!isFirst) {
    main.querySelector("h1")?.focus();
    scrollTo(0, 0);
  }
}

const THEMES = /** @type {const} */ (["system", "light", "dark"]);
const theme = /** @type {HTMLElement} */ (document.getElementById("theme"));

function showTheme() {
  const chosen = document.documentElement.dataset.theme ?? "system";
  setText(theme, { system: "◐", light: "☀", dark: "☾" }[chosen]);
  const text = `Colours: ${chosen === "system" ? "same as the system" : chosen}`;
  setAttribute(theme, "aria-label", text);
  setAttribute(theme, "title", text);
}

theme.addEventListener("click", () => {
  const chosen = document.documentElement.dataset.theme ?? "system";
  const next = THEMES[(THEMES.indexOf(/** @type {any} */ (chosen)) + 1) % THEMES.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("opsqueue-theme", next);
  } catch {
    // It applies until the page is left.
  }
  showTheme();
});

const forget = /** @type {HTMLElement} */ (document.getElementById("forget"));
forget.addEventListener("click", () => {
  token.forget();
  tell("The token was forgotten.");
});
document.addEventListener("token", () => {
  show(forget, Boolean(token.get()));
  showView();
});

document.querySelector("[data-skip]")?.addEventListener("click", (event) => {
  // The address must stay that of the view.
  event.preventDefault();
  main.focus();
});

addEventListener("hashchange", () => {
  // The dialog was about the view that is left.
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  showView();
});
setInterval(turnAges, 1_000);
onUnauthenticated(askForToken);
show(forget, Boolean(token.get()));
showTheme();
showView();
