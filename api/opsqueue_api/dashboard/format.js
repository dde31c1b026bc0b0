/** Formatting of numbers, durations and instants for people. */

const WHOLE = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const SMALL = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 2 });

/** @param {number} n */
export const number = (n) => WHOLE.format(n);

/** "1 chunk", "2 chunks". @param {number} n @param {string} noun */
export const counted = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;

/** Operations a second. @param {number | null | undefined} perSecond */
export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  if (perSecond >= 100) return `${WHOLE.format(perSecond)}/s`;
  if (perSecond >= 10) return `${TENTHS.format(perSecond)}/s`;
  return `${SMALL.format(perSecond)}/s`;
}

/** A percentage, which is never 100 % before everything is done. @param {number} done @param {number} total */
export function percent(done, total) {
  if (total === 0) return "100%";
  const share = (100 * done) / total;
  return `${share > 99 && done < total ? Math.floor(share) : Math.round(share)}%`;
}

/** Two units at most: "42 s", "4 min 10 s", "3 d 4 h". @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s < 600 && s % 60 ? ` ${s % 60} s` : ""}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The age of an instant. @param {string} instant */
export const age = (instant) => duration((Date.now() - Date.parse(instant)) / 1000);

/** An instant in the reader's time zone. @param {string | number} instant */
export function clock(instant) {
  const at = new Date(instant);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return day === clock.today() ? time : `${day} ${time}`;
}
clock.today = () => {
  const now = new Date();
  return `${now.getFullYear()}-${String(now.getMonth() + 1).padStart(2, "0")}-${String(now.getDate()).padStart(2, "0")}`;
};

/** @type {Record<string, string>} */
const STATES = { in_progress: "In progress", completed: "Completed", failed: "Failed", cancelled: "Cancelled" };

/** @param {string} state */
export const stateName = (state) => STATES[state] ?? state;

const PLAIN = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/;

/** A key of strategic metadata: in quotes, as JSON, unless it is plain. @param {string} key */
export const keyText = (key) => PLAIN.test(key) ? key : JSON.stringify(key);

/** Read a key as `keyText` writes it; one without quotes is any text; null: it can't be a key. @param {string} text */
export function keyOf(text) {
  try {
    const key = text.startsWith('"') ? JSON.parse(text) : text;
    return [...key].length >= 1 && [...key].length <= 255 && key.isWellFormed() ? key : null;
  } catch {
    return null;
  }
}
