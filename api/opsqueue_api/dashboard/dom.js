/**
 * Functions that create elements and change them in place. Text is only inserted as text nodes: names
 * of queues, tracebacks and metadata come from users and are never parsed as HTML.
 */

/** @typedef {Node | string | number | null | undefined | false | Child[]} Child */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an element: `h("a", {href, class, onclick}, "text", other)`.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [props] attributes; functions are listeners, false and null are left out
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  assign(element, props);
  append(element, children);
  return element;
}

/** Create an SVG element. @param {string} tag @param {Record<string, any>} [props] @param {...Child} children */
export function svg(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  assign(element, props);
  append(element, children);
  return element;
}

/** @param {Element} element @param {Record<string, any>} props */
function assign(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "value") /** @type {any} */ (element).value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** @param {Element} element @param {Child[]} children */
function append(element, children) {
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Change a text only if it differs, so that a selection or a screen reader is not disturbed. @param {Element} element @param {Child} text */
export function setText(element, text) {
  const wanted = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** @param {Element} element @param {string} name @param {any} value */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** Show or hide an element. @param {HTMLElement} element @param {boolean} isShown */
export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

/** Replace all children. @param {Element} element @param {...Child} children */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/**
 * Give a parent one child for each item, in order. Existing children are moved and updated rather
 * than created again, so that the focus is kept.
 * @template I
 * @param {Element} parent
 * @param {I[]} items
 * @param {(item: I) => string} keyOf
 * @param {(item: I) => {node: Element, update: (item: I) => void}} make
 */
export function reconcile(parent, items, keyOf, make) {
  const known = /** @type {Map<string, any>} */ (/** @type {any} */ (parent).__rows ?? new Map());
  const rows = new Map();
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const row = known.get(key) ?? make(item);
    row.update(item);
    rows.set(key, row);
    if (row.node === at) at = at.nextElementSibling;
    else parent.insertBefore(row.node, at);
  }
  for (const [key, row] of known) if (!rows.has(key)) row.node.remove();
  /** @type {any} */ (parent).__rows = rows;
}

/**
 * A table whose rows become cards on a phone. Roles are explicit, since styles that change the display
 * of a table also remove its roles.
 * @param {string} caption for screen readers
 * @param {{title: string, class?: string, isHidden?: boolean}[]} columns
 */
export function table(caption, columns) {
  const body = h("tbody", { role: "rowgroup" });
  const node = h("table", { role: "table", class: "rows" },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((column) =>
      h("th", { role: "columnheader", scope: "col", class: column.class },
        column.isHidden ? h("span", { class: "unseen" }, column.title) : column.title)))),
    body);
  return {
    node,
    body,
    /** Create a row of cells, in the order of the columns. @param {Node[]} cells */
    row(cells) {
      return h("tr", { role: "row" }, cells.map((cell, i) =>
        h(i === 0 ? "th" : "td", {
          role: i === 0 ? "rowheader" : "cell",
          scope: i === 0 ? "row" : null,
          class: columns[i].class,
          "data-label": columns[i].isHidden ? null : columns[i].title,
        }, cell)));
    },
  };
}
