/** The chunks of a submission as a grid: a cell is one chunk, or several consecutive ones. */

import { h, reconcile, setAttribute, setText, show, table } from "./dom.js";
import { counted, duration, number } from "./format.js";
import { ago, badge } from "./parts.js";

/**
 * @typedef {{done: number, in_hand: number, delayed: number, failed: number, errors: number}} Cell
 * @typedef {{state: string, chunks_total: number, chunks_per_cell: number, cells: Cell[],
 *   in_hand: {index: number, attempt: number, worker: string, reserved_at: string, expires_at: string}[],
 *   delayed: {index: number, attempt: number, due_at: string, is_suspect: boolean}[],
 *   failed: {index: number, attempt: number, at: string}[],
 *   retried: {index: number, attempts: number}[], retried_total: number, is_partial: boolean}} Grid
 */

/** @type {[string, string][]} the kinds of a cell, by priority */
const KINDS = [["failed", "failed"], ["in_hand", "reserved"], ["delayed", "delayed"], ["errors", "done, with errors"], ["done", "done"], ["waiting", "waiting"]];

/** The kind that a cell shows. @param {Cell} cell */
export function kindOf(cell) {
  for (const kind of /** @type {const} */ (["failed", "in_hand", "delayed", "errors", "done"])) if (cell[kind] > 0) return kind;
  return "waiting";
}

/** @param {Cell} cell @param {number} first @param {number} size @param {string} rest */
function textOf(cell, first, size, rest) {
  const place = size === 1 ? `Chunk ${number(first)}` : `Chunks ${number(first)} to ${number(first + size - 1)}`;
  const parts = [];
  if (cell.done) parts.push(size === 1 ? "done" : `${number(cell.done)} done`);
  if (cell.errors) parts.push(size === 1 ? "with errors" : `${number(cell.errors)} of them with errors`);
  for (const [kind, word] of /** @type {const} */ ([["in_hand", "reserved"], ["delayed", "delayed"], ["failed", "failed"]])) {
    if (cell[kind]) parts.push(size === 1 ? word : `${number(cell[kind])} ${word}`);
  }
  const waiting = size - cell.done - cell.in_hand - cell.delayed - cell.failed;
  if (waiting > 0) parts.push(size === 1 ? rest : `${number(waiting)} ${rest}`);
  return `${place}: ${parts.join(", ")}`;
}

/** The grid with its legend and lists: `update(grid)`. */
export function chunkGrid() {
  const cells = h("div", { class: "grid", role: "img" });
  const scale = h("p", { class: "note" });
  const legend = h("ul", { class: "legend" });
  const lists = h("div", { class: "lists" });
  const partial = h("p", { class: "note", hidden: true },
    "The queue has more reserved or delayed chunks than one request reads: some of this submission's may be missing here.");
  const inHand = table("Reserved chunks", [{ title: "Reserved chunk", class: "name" }, { title: "Worker" }, { title: "Since", class: "n" }, { title: "Attempt", class: "n" }]);
  const delayed = table("Delayed chunks", [{ title: "Delayed chunk", class: "name" }, { title: "Retried in", class: "n" }, { title: "Attempts used", class: "n" }]);
  const retried = table("Chunks with failed attempts", [{ title: "Chunk with failed attempts", class: "name" }, { title: "Attempts used", class: "n" }]);
  const rest = h("p", { class: "note", hidden: true });
  lists.append(inHand.node, delayed.node, h("div", {}, retried.node, rest));
  const node = h("div", {}, h("div", { class: "gridbox" }, cells), legend, scale, partial, lists);

  /** @param {Grid} grid */
  function update(grid) {
    const size = grid.chunks_per_cell;
    const isOver = grid.state !== "in_progress";
    const restWord = isOver ? "dropped" : "waiting";
    const totals = { done: 0, in_hand: 0, delayed: 0, failed: 0, errors: 0, waiting: 0 };
    while (cells.childElementCount > grid.cells.length) cells.lastElementChild?.remove();
    while (cells.childElementCount < grid.cells.length) cells.append(document.createElement("i"));
    setAttribute(cells, "data-size", grid.cells.length <= 60 ? "large" : grid.cells.length <= 400 ? "medium" : "small");
    grid.cells.forEach((cell, i) => {
      const first = i * size;
      const has = Math.min(size, grid.chunks_total - first);
      const element = /** @type {HTMLElement} */ (cells.children[i]);
      for (const kind of /** @type {const} */ (["done", "in_hand", "delayed", "failed", "errors"])) totals[kind] += cell[kind];
      setAttribute(element, "class", kindOf(cell));
      setAttribute(element, "title", textOf(cell, first, has, restWord));
      const share = `${Math.round((100 * cell.done) / has)}%`;
      if (element.style.getPropertyValue("--share") !== share) element.style.setProperty("--share", share);
    });
    totals.waiting = grid.chunks_total - totals.done - totals.in_hand - totals.delayed - totals.failed;
    const shown = { ...totals, done: totals.done - totals.errors };
    const words = /** @type {[string, string, number][]} */ (KINDS.map(([kind, word]) =>
      [kind, kind === "waiting" ? restWord : word, /** @type {any} */ (shown)[kind]]));
    setAttribute(cells, "aria-label", `${counted(grid.chunks_total, "chunk")}: ${words.filter(([, , n]) => n).map(([, word, n]) => `${number(n)} ${word}`).join(", ")}`);
    reconcile(legend, words.filter(([, , n]) => n), ([kind]) => kind, ([kind]) => {
      const text = h("span", {});
      return { node: h("li", { class: "grid" }, h("i", { class: kind }), text), update: ([, word, n]) => setText(text, `${number(n)} ${word}`) };
    });
    setText(scale, size > 1 ? `Each cell stands for ${number(size)} chunks; its filled part shows how many are done.` : "");
    show(partial, grid.is_partial);

    show(inHand.node, grid.in_hand.length > 0);
    reconcile(inHand.body, grid.in_hand, (of) => `${of.index}/${of.attempt}/${of.reserved_at}`, (of) => ({
      node: inHand.row([h("span", {}, number(of.index)), h("span", { class: "mono" }, of.worker), ago(of.reserved_at, ""), h("span", {}, number(of.attempt))]),
      update: () => undefined,
    }));
    show(delayed.node, grid.delayed.length > 0);
    reconcile(delayed.body, grid.delayed, (of) => `${of.index}/${of.due_at}`, (of) => {
      const due = h("span", {});
      return {
        node: delayed.row([h("span", {}, number(of.index)), due, h("span", {}, number(of.attempt))]),
        update: (now) => setText(due, now.is_suspect ? "when a worker holds nothing else, since its last one died" : Date.parse(of.due_at) <= Date.now() ? "now" : duration((Date.parse(of.due_at) - Date.now()) / 1000)),
      };
    });
    show(retried.node, grid.retried.length > 0);
    reconcile(retried.body, grid.retried.slice(0, 20), (of) => String(of.index), (of) => {
      const used = h("span", {});
      const isLast = grid.failed.some((failed) => failed.index === of.index);
      return {
        node: retried.row([h("span", {}, number(of.index), isLast && [" ", badge("failed")]), used]),
        update: (now) => setText(used, number(now.attempts)),
      };
    });
    show(rest, grid.retried_total > 20);
    setText(rest, grid.retried_total > 20 ? `and ${number(grid.retried_total - 20)} more that used attempts` : "");
  }

  return { node, update };
}

