/** LoRA that fit the model: each with one slider, and its trigger words. */
import { html, Icon, Range, useApp, useStore } from "./ui.js";
import { gettext } from "./words.js";

/**
 * Those of the list that a model of this family can take.
 * @param {any[]} loras
 * @param {string} family
 */
export function fitting(loras, family) {
  return loras.filter((lora) => lora.family === family && lora.enabled && lora.state !== "broken");
}

/**
 * The prompt with a LoRA's trigger words, those that it lacks.
 * @param {string} prompt
 * @param {any} lora
 */
export function withTriggers(prompt, lora) {
  const missing = (lora?.trigger_words ?? []).filter((/** @type {string} */ word) => !prompt.toLowerCase().includes(word.toLowerCase()));
  return [prompt.trim(), ...missing].filter(Boolean).join(", ");
}

/** @param {{family: string}} props */
export function Styles({ family }) {
  const { store } = useApp();
  const all = useStore((state) => state.loras);
  const chosen = useStore((state) => state.form.loras);
  const loras = fitting(all, family);
  if (!loras.length && !chosen.length) return null;
  const add = (/** @type {any} */ event) => {
    const lora = loras.find((one) => one.name === event.target.value);
    if (!lora) return;
    store.fill({ loras: [...chosen, { lora: lora.name, scale: 1 }], prompt: withTriggers(store.state.form.prompt, lora) });
    event.target.value = "";
  };
  const scale = (/** @type {string} */ name, /** @type {number} */ value) =>
    store.fill({ loras: chosen.map((one) => (one.lora === name ? { ...one, scale: value } : one)) });
  const left = loras.filter((lora) => !chosen.some((one) => one.lora === lora.name));
  return html`<div class="styles">
    ${chosen.map(
      (one) => html`<${Range} key=${one.lora} id=${`style-${one.lora}`} label=${one.lora} value=${one.scale} shown=${one.scale.toFixed(2)}
        min=${0} max=${2} step=${0.05} change=${(/** @type {number} */ value) => scale(one.lora, value)}>
        <button type="button" class="quiet only-icon" aria-label=${gettext("Without {style}", { style: one.lora })}
          onClick=${() => store.fill({ loras: chosen.filter((other) => other.lora !== one.lora) })}><${Icon} name="x" /></button>
      <//>`,
    )}
    ${left.length > 0 &&
    html`<label class="visually-hidden" for="add-style">${gettext("Add a style")}</label>
      <select id="add-style" class="quiet-select" onChange=${add}>
        <option value="">${gettext("Add a style (LoRA)")}</option>
        ${left.map((lora) => html`<option key=${lora.name} value=${lora.name}>${lora.name}</option>`)}
      </select>`}
  </div>`;
}
