/** Short ways to the page's elements. */

/**
 * The element that the markup has under this id.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return /** @type {T} */ (element);
}

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {{className?: string, text?: string, title?: string}} [how]
 * @param {(Node | string)[]} [children]
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, { className, text, title } = {}, children = []) {
  const element = document.createElement(tag);
  if (className !== undefined) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (title !== undefined) element.title = title;
  element.append(...children);
  return element;
}

/**
 * A list of bounded length that follows its end unless the reader has scrolled away.
 * @param {HTMLElement} list
 * @param {HTMLElement} row
 * @param {number} most
 */
export function appendRow(list, row, most) {
  const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 48;
  list.append(row);
  while (list.childElementCount > most) list.firstElementChild?.remove();
  if (follows) list.scrollTop = list.scrollHeight;
}

/** @param {number} ms */
export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** @type {Record<string, string>} */
const NAMES = { webtransport: 'WebTransport', websocket: 'WebSocket', auto: 'Auto' };

/** @param {string | null | undefined} kind */
export function transportName(kind) {
  return NAMES[kind ?? ''] ?? '';
}
