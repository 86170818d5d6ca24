/** The keys, for whoever asks. */
import { Dialog, html, useApp, useStore } from "./ui.js";
import { gettext } from "./words.js";

const KEYS = [
  ["Ctrl ↵", gettext("draw")],
  ["/", gettext("to the prompt")],
  ["Esc", gettext("cancel what is being drawn; close what is open")],
  ["← →", gettext("newer and older pictures")],
  ["g", gettext("gallery")],
  ["c", gettext("create")],
  ["[ ]", gettext("smaller and larger brush")],
  ["e", gettext("brush or eraser")],
  ["i", gettext("invert what is painted")],
  ["Ctrl Z", gettext("take back a stroke")],
  ["Shift", gettext("with a click: select all between")],
  ["?", gettext("this list")],
];

export function Help() {
  const { store } = useApp();
  const open = useStore((state) => state.help);
  if (!open) return null;
  return html`<${Dialog} title=${gettext("Keys")} close=${() => store.set({ help: false })}>
    <dl class="keys">${KEYS.map(([key, does]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${does}</dd></div>`)}</dl>
  <//>`;
}
