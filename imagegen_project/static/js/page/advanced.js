/** What most pictures need no word about, built from what the model can do. */
import { chosenModel, pictureKind } from "./models.js";
import { sizeOf } from "./request.js";
import { AddPicture } from "./picture_field.js";
import { Styles } from "./styles.js";
import { html, Icon, Range, useApp, useStore } from "./ui.js";
import { gettext } from "./words.js";

/**
 * A number; null means what the model does by itself.
 * @param {{name: string, field: string, label: string, value: number | null, usual: number, min: number, max: number,
 *   step: number}} props
 */
function Usual({ name, field, label, value, usual, ...range }) {
  const { store } = useApp();
  const trouble = useStore((state) => state.errors[name]);
  return html`<${Range} ...${range} id=${name} label=${label} value=${value ?? usual} shown=${value ?? usual}
    change=${(/** @type {number} */ number) => store.fill({ [field]: number })}>
    ${value !== null && value !== usual &&
    html`<button type="button" class="quiet only-icon" title=${gettext("As the model does by itself")} aria-label=${gettext("Reset {what}", { what: label })}
      onClick=${() => store.fill({ [field]: null })}><${Icon} name="rotate-ccw" /></button>`}
    ${trouble && html`<p class="trouble">${trouble}</p>`}
  <//>`;
}

/** @param {{name: string, label: string, value: number, limits: any}} props */
function Side({ name, label, value, limits }) {
  const { store } = useApp();
  const trouble = useStore((state) => state.errors[name]);
  const model = useStore(chosenModel);
  const change = (/** @type {any} */ event) => {
    const { form } = store.state;
    const both = form.shape === "own" ? { width: form.width, height: form.height } : sizeOf(model, form.shape);
    store.fill({ ...both, [name]: Number(event.target.value), shape: "own" });
  };
  return html`<label>${label}
    <input type="number" name=${name} min=${limits.min_size} max=${limits.max_size} step=${limits.size_multiple} value=${value}
      aria-invalid=${trouble ? "true" : null} onChange=${change} />
    ${trouble && html`<small class="trouble">${trouble}</small>`}
  </label>`;
}

export function Advanced() {
  const { store } = useApp();
  const form = useStore((state) => state.form);
  const model = useStore(chosenModel);
  const capabilities = useStore((state) => state.capabilities);
  const errors = useStore((state) => state.errors);
  if (!model || !capabilities) return null;
  const { limits, defaults, takes, kinds } = model;
  const most = capabilities.limits;
  const size = form.shape === "own" ? form : sizeOf(model, form.shape);
  const text = (/** @type {"negative_prompt" | "scheduler" | "output_format"} */ field) => (/** @type {any} */ event) =>
    store.fill({ [field]: event.target.value });
  const seed = (/** @type {any} */ event) => store.fill({ seed: event.target.value === "" ? null : Number(event.target.value) });
  return html`<div class="extras">
    ${pictureKind(model) && kinds.includes("txt2img") && !form.images.length && html`<${AddPicture} kind=${pictureKind(model)} />`}
    ${takes.loras && html`<${Styles} family=${model.family} />`}
    <details class="advanced">
      <summary>${gettext("More settings")}</summary>
      <${Range} id="num_images" label=${gettext("Pictures")} value=${form.num_images} shown=${form.num_images} min=${1} max=${most.max_num_images}
        change=${(/** @type {number} */ num_images) => store.fill({ num_images })} />
      <${Usual} name="num_inference_steps" field="steps" label=${gettext("Steps")} value=${form.steps}
        usual=${defaults.num_inference_steps} min=${1} max=${most.max_num_inference_steps} step=${1} />
      ${takes.guidance !== "none" && html`<${Usual} name="guidance_scale" field="guidance_scale" label=${gettext("How closely to follow the prompt")} value=${form.guidance_scale}
        usual=${defaults.guidance_scale} min=${limits.min_guidance_scale} max=${limits.max_guidance_scale} step=${0.5} />`}
      ${takes.negative_prompt && html`<label for="negative_prompt">${gettext("What not to draw")}</label>
      <input id="negative_prompt" maxlength=${most.max_prompt_characters} value=${form.negative_prompt} onInput=${text("negative_prompt")} />`}
      <label for="seed">${gettext("Seed")}</label>
      <div class="with-button">
        <input id="seed" type="number" min="0" max="4294967295" placeholder=${gettext("a new one each time")} value=${form.seed ?? ""} onInput=${seed}
          aria-invalid=${errors.seed ? "true" : null} />
        <button type="button" class="quiet only-icon" title=${gettext("A new one each time")} aria-label=${gettext("A new seed each time")}
          onClick=${() => store.fill({ seed: null })}><${Icon} name="dices" /></button>
      </div>
      ${errors.seed && html`<p class="trouble">${errors.seed}</p>`}
      ${(!form.images.length || !pictureKind(model)) && html`<div class="grid">
        <${Side} name="width" label=${gettext("Width")} value=${size.width} limits=${limits} />
        <${Side} name="height" label=${gettext("Height")} value=${size.height} limits=${limits} />
      </div>`}
      ${limits.schedulers.length > 0 &&
      html`<label for="scheduler">${gettext("Scheduler")}</label>
        <select id="scheduler" value=${form.scheduler} onChange=${text("scheduler")}>
          <option value="">${gettext("the model's own")}</option>
          ${limits.schedulers.map((/** @type {string} */ name) => html`<option key=${name} value=${name} selected=${name === form.scheduler}>${name}</option>`)}
        </select>`}
      ${limits.max_clip_skip > 0 &&
      html`<${Range} id="clip_skip" label=${gettext("Layers of the text encoder to skip")} value=${form.clip_skip} shown=${form.clip_skip}
        min=${0} max=${limits.max_clip_skip} change=${(/** @type {number} */ clip_skip) => store.fill({ clip_skip })} />`}
      ${takes.first_block_cache &&
      html`<label><input id="acceleration" type="checkbox" role="switch" checked=${form.acceleration !== "none"}
        onChange=${() => store.fill({ acceleration: form.acceleration === "none" ? "first_block_cache" : "none" })} />${gettext("Faster, at a small loss")}</label>`}
      <label for="output_format">${gettext("File")}</label>
      <select id="output_format" value=${form.output_format} onChange=${text("output_format")}>
        ${capabilities.output_formats.map((/** @type {string} */ name) => html`<option key=${name} value=${name} selected=${name === form.output_format}>${name.toUpperCase()}</option>`)}
      </select>
    </details>
  </div>`;
}
