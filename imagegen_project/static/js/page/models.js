/** Which model draws, and whether it is here. */
import { html, useApp, useStore } from "./ui.js";
import { gettext, size } from "./words.js";

/**
 * The model that the form names, else the service's own choice.
 * @param {import("./store.js").State} state
 * @returns {any} undefined until the list has come
 */
export function chosenModel({ models, form }) {
  return (
    models.find((model) => model.id === form.model) ??
    models.find((model) => model.is_default) ??
    models.find((model) => model.family === "builtin") ??
    models[0]
  );
}

/**
 * What a model does with pictures that it is given; "" where it takes none.
 * @param {any} model
 * @returns {"img2img" | "edit" | "inpaint" | ""}
 */
export function pictureKind({ kinds }) {
  return /** @type {const} */ (["img2img", "edit", "inpaint"]).find((kind) => kinds.includes(kind)) ?? "";
}

/** How many pictures a model takes. @param {any} model */
export function mostPictures(model) {
  const kind = pictureKind(model);
  return kind === "edit" ? model.limits.max_edit_images : kind ? 1 : 0;
}

/** @param {any} model */
export function stateOf(model) {
  const tiers = model.workers.map((/** @type {any} */ one) => one.tier);
  const bytes = model.size_bytes ? `, ${size(model.size_bytes)}` : "";
  if (model.state === "downloading") return gettext("on its way, {percent} %", { percent: Math.round(model.percent) });
  if (model.state === "broken") return gettext("cannot be used: {why}", { why: model.error?.detail ?? "" });
  if (model.state === "absent") return gettext("not here yet") + bytes + gettext("; fetched when you draw");
  if (tiers.includes("resident")) return gettext("ready");
  if (tiers.includes("loading")) return gettext("being loaded");
  return gettext("here, loaded when you draw");
}

/** The picker, with the state of what is chosen. */
export function ModelPicker() {
  const { store } = useApp();
  const models = useStore((state) => state.models);
  const model = useStore(chosenModel);
  if (!model) return null;
  const dot = model.state === "present" ? "good" : model.state === "broken" ? "bad" : "warm";
  return html`<div class="model">
    <label for="model">${gettext("Model")}</label>
    <select
      id="model"
      value=${model.id}
      aria-describedby="model-state"
      onChange=${(/** @type {any} */ event) => store.fill({ model: event.target.value, scheduler: "", clip_skip: 0, acceleration: "none", steps: null, guidance_scale: null })}
    >
      ${models.map((one) => html`<option key=${one.id} value=${one.id} selected=${one.id === model.id}>${one.name}</option>`)}
    </select>
    <p id="model-state" class="hint"><span class=${`dot ${dot}`}></span>${stateOf(model)}</p>
  </div>`;
}
