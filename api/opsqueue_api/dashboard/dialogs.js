/** Dialogs for confirmation, tokens and metadata. Each is a `<dialog>`. */

import { token } from "./api.js";
import { h, setText, show } from "./dom.js";
import { keyOf, keyText } from "./format.js";
import { tell } from "./parts.js";

/**
 * Open a dialog with a form; the promise resolves to whether the action was done.
 * @param {{title: string, body: import("./dom.js").Child, yes: string, isGrave?: boolean,
 *   act: () => Promise<void>}} of errors of `act` are shown in the dialog
 * @returns {Promise<boolean>}
 */
function ask({ title, body, yes, isGrave, act }) {
  return new Promise((resolve) => {
    let isDone = false;
    const errorBox = h("p", { class: "error", role: "alert", hidden: true });
    const doIt = h("button", { type: "submit", class: isGrave ? "grave" : "main" }, yes);
    const form = h("form", { novalidate: true },
      h("h2", { id: "dialog-title" }, title), body, errorBox,
      h("div", { class: "buttons" },
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"), doIt));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => {
      dialog.remove();
      resolve(isDone);
    } }, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      doIt.disabled = true;
      show(errorBox, false);
      try {
        await act();
        isDone = true;
        dialog.close();
      } catch (error) {
        setText(errorBox, error instanceof Error ? error.message : String(error));
        show(errorBox, true);
      } finally {
        doIt.disabled = false;
      }
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * Ask for confirmation, do the action, and announce that it is done.
 * @param {{title: string, what: import("./dom.js").Child, yes: string, isGrave?: boolean,
 *   act: () => Promise<unknown>, done: string}} of
 */
export async function confirmed({ title, what, yes, isGrave, act, done }) {
  const body = h("div", {}, Array.isArray(what) ? what.map((text) => h("p", {}, text)) : h("p", {}, what));
  const isDone = await ask({ title, body, yes, isGrave, act: async () => void (await act()) });
  if (isDone) tell(done);
  return isDone;
}

/** @type {Promise<boolean> | null} */
let asking = null;

/** Ask for a token, once for all requests that need one. @param {string} why the previous one was refused */
export function askForToken(why) {
  asking ??= askOnce(why).finally(() => {
    asking = null;
  });
  return asking;
}

/** @param {string} why */
function askOnce(why) {
  const field = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-about" });
  const body = h("div", {},
    why && h("p", { class: "error" }, `Refused: ${why}.`),
    h("p", { id: "token-about" }, "This API requires a token. Enter its secret; it is kept in this tab until you close it, and it is sent to this API only."),
    h("label", { for: "token" }, "Token"), field);
  return ask({
    title: "Token",
    body,
    yes: "Use it",
    act: async () => {
      const secret = field.value.trim();
      if (!/^[!-~]+$/.test(secret)) throw new Error("A token has only letters, digits and -._~+/.");
      token.set(secret);
    },
  });
}

const INTEGER = /^(0|-?[1-9]\d{0,18})$/;

/**
 * Ask for changed strategic metadata and send the differences.
 * @param {string} name of the submission
 * @param {Record<string, number | string>} current
 * @param {(json: string) => Promise<unknown>} sendChanges
 */
export async function editMetadata(name, current, sendChanges) {
  const rows = h("div", { class: "pairs" });
  const add = (key = "", value = /** @type {number | string} */ ("")) => {
    const row = h("div", { class: "pair" },
      h("input", { "aria-label": "Key", value: key && keyText(key), placeholder: "priority", spellcheck: "false", autocapitalize: "off" }),
      h("input", { "aria-label": key ? `Value of ${key}` : "Value", value: String(value), placeholder: "0", inputmode: "numeric", autofocus: Boolean(key) && !rows.hasChildNodes() }),
      h("button", { type: "button", class: "quiet", "aria-label": key ? `Remove ${key}` : "Remove this pair", onclick: () => row.remove() }, "Remove"));
    rows.append(row);
    return row;
  };
  for (const [key, value] of Object.entries(current)) add(key, value);
  if (!Object.keys(current).length) add();
  const body = h("div", {},
    h("p", {}, `Strategies choose the next chunk by these numbers, such as a priority. Changes apply to submission ${name} from the next chunk on; reserved chunks are not affected.`),
    rows,
    h("button", { type: "button", class: "quiet", onclick: () => add().querySelector("input")?.focus() }, "Add a pair"));
  const isDone = await ask({
    title: "Change strategic metadata",
    body,
    yes: "Change it",
    act: async () => {
      const wanted = new Map();
      for (const row of rows.children) {
        const [text, value] = [...row.querySelectorAll("input")].map((input) => input.value.trim());
        if (!text && !value) continue;
        const key = keyOf(text);
        if (key === null) throw new Error(`“${text}” can't be a key: use 1 to 255 characters, or these in double quotes, as in JSON.`);
        if (!INTEGER.test(value)) throw new Error(`The value of ${text} is “${value}”: enter an integer.`);
        if (wanted.has(key)) throw new Error(`The key ${text} appears twice.`);
        wanted.set(key, value);
      }
      // As text, since these integers have 64 bits and JavaScript's numbers have 53.
      const changes = [...wanted].filter(([key, value]) => String(current[key]) !== value).map(([key, value]) => `${JSON.stringify(key)}:${value}`);
      for (const key of Object.keys(current)) if (!wanted.has(key)) changes.push(`${JSON.stringify(key)}:null`);
      if (!changes.length) throw new Error("Nothing is changed yet.");
      await sendChanges(`{"strategic_metadata":{${changes.join(",")}}}`);
    },
  });
  if (isDone) tell(`Strategic metadata of submission ${name} changed.`);
  return isDone;
}

