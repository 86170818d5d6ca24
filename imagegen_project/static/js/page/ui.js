/** What all parts of the page are made with. */
import { createContext, html, useContext, useEffect, useRef, useState } from "../../vendor/htm/preact.js";
import { isPlain } from "./router.js";

export { html, useEffect, useRef, useState };

/**
 * @typedef {import("./store.js").State} State
 * @typedef {{store: import("./store.js").Store, client: import("../client/client.js").Client,
 *   jobs: import("./jobs.js").Jobs, gallery: import("./gallery_rows.js").GalleryRows, go: (path: string) => void,
 *   notify: (text: string, action?: {label: string, run: () => void}) => void, bad: (error: Error) => void,
 *   user: string, isStaff: boolean}} App `notify` shows a line for a while, `bad` what went wrong
 */

export const AppContext = createContext(/** @type {any} */ (null));

/** @returns {App} */
export function useApp() {
  return useContext(AppContext);
}

/**
 * A part of the state; the component is drawn again when it has changed.
 * @template T
 * @param {(state: State) => T} choose
 * @returns {T}
 */
export function useStore(choose) {
  const { store } = useApp();
  const [, redraw] = useState(0);
  const chosen = choose(store.state);
  const last = useRef({ choose, chosen });
  last.current = { choose, chosen };
  useEffect(() => {
    const look = () => {
      if (last.current.choose(store.state) !== last.current.chosen) redraw((/** @type {number} */ n) => n + 1);
    };
    look();
    return store.listen(look);
  }, [store]);
  return chosen;
}

/** @param {{name: string, label?: string}} props */
export function Icon({ name, label }) {
  return html`<svg class="icon" aria-hidden=${label ? null : "true"} role=${label ? "img" : null} aria-label=${label}>
    <use href=${`/static/vendor/lucide/icons.svg#${name}`} />
  </svg>`;
}

/** A link to another page of the program, without loading it anew. @param {{to: string, children?: any, [attribute: string]: any}} props */
export function Link({ to, children, ...attributes }) {
  const { go } = useApp();
  const open = (/** @type {MouseEvent} */ event) => {
    if (!isPlain(event)) return;
    event.preventDefault();
    go(to);
  };
  return html`<a href=${to} onClick=${open} ...${attributes}>${children}</a>`;
}

/**
 * A number with a slider.
 * @param {{id: string, label: any, value: number, min: number, max: number, step?: number, shown?: string | number,
 *   change: (value: number) => void, children?: any}} props `shown`: the value beside the label; `children`: what
 *   stands behind the slider
 */
export function Range({ id, label, value, min, max, step = 1, shown, change, children }) {
  return html`<div class="slider">
    <label for=${id}><span>${label}</span>${shown !== undefined && html`<output>${shown}</output>`}</label>
    <input id=${id} type="range" min=${min} max=${max} step=${step} value=${value}
      onInput=${(/** @type {any} */ event) => change(Number(event.target.value))} />
    ${children}
  </div>`;
}

/**
 * A dialog over the page, closed by Escape, by a click beside it or by its ✕.
 * @param {{title: string, close: () => void, children?: any, wide?: boolean}} props
 */
export function Dialog({ title, close, children, wide }) {
  const ref = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const dialog = ref.current;
    const back = /** @type {HTMLElement | null} */ (document.activeElement);
    dialog?.showModal();
    return () => {
      // While it is open, nothing else can have the focus.
      dialog?.close();
      back?.focus?.();
    };
  }, []);
  const beside = (/** @type {MouseEvent} */ event) => event.target === ref.current && close();
  return html`<dialog ref=${ref} class=${wide ? "wide" : ""} aria-label=${title} onClose=${close} onCancel=${close} onMouseDown=${beside}>
    <article>
      <header>
        <h2>${title}</h2>
        <button class="quiet only-icon" aria-label="Close" onClick=${close}><${Icon} name="x" /></button>
      </header>
      ${children}
    </article>
  </dialog>`;
}

/**
 * The text on the clipboard; pages over plain HTTP have none, and an older way.
 * @param {string} text
 */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/**
 * An address of the API as the page's session opens it: without a signature, so that the browser knows it again.
 * @param {string} url
 */
export function pathOf(url) {
  return new URL(url, location.origin).pathname;
}

/**
 * A picture made smaller.
 * @param {string} url
 * @param {128 | 256 | 512} width
 */
export function thumbnail(url, width) {
  return `${pathOf(url)}?width=${width}`;
}

/** @param {Blob} blob @returns {Promise<string>} */
export function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
