/** The state of the connection, in the header and, when it is lost, in a banner. */

import { h, replace, setAttribute, show } from "./dom.js";
import { follow } from "./events.js";
import { clock, duration } from "./format.js";
import { refusal } from "./parts.js";

const place = /** @type {HTMLElement} */ (document.getElementById("live"));
const banner = /** @type {HTMLElement} */ (document.getElementById("banner"));

let heardAt = 0;
let countdown = 0;

/** @param {string} state @param {string} text */
function say(state, text) {
  setAttribute(place, "data-state", state);
  if (place.textContent !== text) replace(place, h("span", { class: "dot" }), text);
}

/** @param {import("./events.js").Connection} connection */
function tellConnection(connection) {
  clearInterval(countdown);
  const isLost = connection.state === "lost";
  document.body.classList.toggle("stale", isLost);
  if (!isLost && connection.state !== "connecting") show(banner, false);
  if (connection.state === "live") say("live", "Live");
  else if (connection.state === "connecting") say("connecting", banner.hidden ? "Connecting" : "Connecting again");
  else if (connection.state === "lost") {
    say("lost", "Not connected");
    const left = h("span", {});
    const turn = () => replace(left, duration((connection.retryAt - Date.now()) / 1000));
    turn();
    countdown = setInterval(turn, 500);
    replace(banner, h("p", { class: "wide" },
      h("strong", {}, "Connection lost: "), `${connection.why}. `,
      heardAt ? `This page shows data from ${clock(heardAt)}. ` : "", "Trying again in ", left, ". ",
      h("button", { type: "button", class: "quiet small", onclick: connection.retry }, "Try now")));
    show(banner, true);
  } else say(connection.state, "");
}

/** Show that nothing is followed, since the view is complete. */
export function quiet() {
  clearInterval(countdown);
  show(banner, false);
  document.body.classList.remove("stale");
  say("ended", "");
}

/**
 * Follow events and show the state of the connection. Refusals are shown in `refused`.
 * @param {string} path
 * @param {{signal: AbortSignal, onEvent: (name: string, data: any) => boolean | void, onOpen?: () => void,
 *   refused?: HTMLElement, what?: string}} with_
 */
export function followLive(path, { signal, onEvent, onOpen, refused, what = "Live changes" }) {
  return follow(path, {
    signal,
    onOpen,
    onEvent: (name, data) => {
      heardAt = Date.now();
      return onEvent(name, data);
    },
    onConnection: (connection) => {
      if (signal.aborted) return;
      tellConnection(connection);
      if (connection.state === "refused" && refused) {
        const again = () => document.dispatchEvent(new CustomEvent("token"));
        replace(refused, refusal(connection.problem, what, connection.problem.status === 401 ? again : undefined));
        show(refused, true);
      }
    },
  });
}

/**
 * Call `act` now and then regularly until the signal; `poke()` requests a further call soon.
 * @param {() => Promise<void>} act handles its own errors
 * @param {{everyMs: number, atLeastMs?: number, signal: AbortSignal}} with_
 */
export function throttled(act, { everyMs, atLeastMs = 0, signal }) {
  let isRunning = false;
  let isWanted = false;
  let timer = 0;
  const run = async () => {
    clearTimeout(timer);
    if (isRunning || signal.aborted) {
      isWanted = true;
      return;
    }
    isRunning = true;
    isWanted = false;
    const began = Date.now();
    try {
      if (!document.hidden) await act();
    } finally {
      isRunning = false;
      const pauseMs = isWanted ? everyMs : atLeastMs;
      last = began;
      if (!signal.aborted && pauseMs) timer = setTimeout(run, Math.max(0, pauseMs - (Date.now() - began)));
    }
  };
  let last = 0;
  signal.addEventListener("abort", () => clearTimeout(timer));
  return {
    poke() {
      isWanted = true;
      if (isRunning) return;
      clearTimeout(timer);
      timer = setTimeout(run, Math.max(0, everyMs - (Date.now() - last)));
    },
    run,
  };
}
