/**
 * Elements, made and changed in place. Text goes in as text nodes alone: names of queues, tracebacks
 * and metadata are other people's, and nothing of them is ever read as HTML.
 */

/** @typedef {Node | string | number | null | undefined | false | Child[]} Child */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element: `h("a", {href, class, onclick}, "text", other)`.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [props] attributes; functions are listeners, false and null nothing
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  assign(element, props);
  append(element, children);
  return element;
}

/** Make an SVG element. @param {string} tag @param {Record<string, any>} [props] @param {...Child} children */
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

/** Change a text only when it is another: what is selected or read aloud stays. @param {Element} element @param {Child} text */
export function setText(element, text) {
  const wanted = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** @param {Element} element @param {string} name @param {any} value */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** Show an element, or not. @param {HTMLElement} element @param {boolean} isShown */
export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

/** Put new children in the place of all others. @param {Element} element @param {...Child} children */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/**
 * Let a parent have one child an item, in their order: known ones are moved and changed, not made
 * anew, so that what has the focus keeps it.
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
 * A table whose rows become cards on a phone. Roles are said: styles that take the display of a
 * table away take its meaning away, too.
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
    /** Make a row of cells, in the columns' order. @param {Node[]} cells */
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
