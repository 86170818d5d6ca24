/** The pictures that a drawing starts from, or changes. */
import { chosenModel, mostPictures, pictureKind } from "./models.js";
import { html, Icon, useApp, useRef, useState, useStore } from "./ui.js";
import { Paint } from "./paint.js";
import { readPicture } from "./drop.js";
import { gettext } from "./words.js";

/** @param {number} strength */
export function strengthWords(strength) {
  if (strength <= 0.3) return gettext("a little");
  if (strength <= 0.55) return gettext("somewhat");
  if (strength <= 0.8) return gettext("much");
  return gettext("a lot");
}

/** What the form is given, and, where the model draws nothing without, what asks for it. */
export function PictureField() {
  const model = useStore(chosenModel);
  const images = useStore((state) => state.form.images);
  const trouble = useStore(({ errors }) => errors.image ?? errors.images ?? errors["images.0"] ?? errors.mask_image ?? errors.strength);
  const said = trouble && html`<p class="trouble">${trouble}</p>`;
  if (!model) return null;
  const kind = pictureKind(model);
  if (!images.length) return model.kinds.includes("txt2img") ? said : html`<div><${AddPicture} kind=${kind} />${said}</div>`;
  if (!kind) return html`<p class="hint">${gettext("This model draws from words alone: the picture waits for another one.")}</p>`;
  if (kind === "edit") return html`<${Edited} images=${images.slice(0, mostPictures(model))} most=${mostPictures(model)}>${said}<//>`;
  return html`<${Start} picture=${images[0]} model=${model}>${said}<//>`;
}

/** Pictures to be changed as the prompt says. @param {{images: string[], most: number, children?: any}} props */
function Edited({ images, most, children }) {
  const { store } = useApp();
  return html`<div class="edited">
    <ul class="edited-pictures">
      ${images.map((image, n) => html`<li key=${image}>
        <img src=${image} alt=${gettext("Picture {n} to be changed", { n: n + 1 })} />
        <button type="button" class="quiet only-icon corner" aria-label=${gettext("Without picture {n}", { n: n + 1 })}
          onClick=${() => store.fill({ images: images.filter((_, other) => other !== n) })}><${Icon} name="x" /></button>
      </li>`)}
      ${images.length < most && html`<li><${AddPicture} kind="edit" more /></li>`}
    </ul>
    <p class="hint">${gettext("Say above what to change in it; the rest stays.")}</p>
    ${children}
  </div>`;
}

/** A picture to start from, and how much of it may change. @param {{picture: string, model: any, children?: any}} props */
function Start({ picture, model, children }) {
  const { store } = useApp();
  const mask = useStore((state) => state.form.mask);
  const strength = useStore((state) => state.form.strength);
  const [painting, setPainting] = useState(false);
  const done = (/** @type {string | null} */ painted) => {
    store.fill(painted ? { mask: painted, strength: 1 } : { mask: null });
    setPainting(false);
  };
  return html`<div class="start">
    <div class="start-picture">
      <img src=${picture} alt=${gettext("The picture to start from")} />
      ${mask && html`<img class="mask" src=${mask} alt=${gettext("What is drawn anew")} />`}
    </div>
    <div>
      <label for="strength">${mask ? gettext("Change the painted part") : gettext("Change")} <strong>${strengthWords(strength)}</strong></label>
      <input
        id="strength"
        type="range"
        min="0.1"
        max="1"
        step="0.05"
        value=${strength}
        aria-valuetext=${strengthWords(strength)}
        onInput=${(/** @type {any} */ event) => store.fill({ strength: Number(event.target.value) })}
      />
      <div class="buttons">
        ${model.kinds.includes("inpaint") && html`<button type="button" class="quiet" onClick=${() => setPainting(true)}>
          <${Icon} name="brush" />${mask ? gettext("Paint on") : gettext("Only a part")}
        </button>`}
        <button type="button" class="quiet" onClick=${() => store.fill({ images: [], mask: null, shape: "square" })}>
          <${Icon} name="x" />${gettext("Without it")}
        </button>
      </div>
      ${children}
    </div>
    ${painting && html`<${Paint} picture=${picture} mask=${mask} close=${() => setPainting(false)} done=${done} />`}
  </div>`;
}

/** A button that asks for a file. @param {{kind: string, more?: boolean}} props `more`: one beside the others */
export function AddPicture({ kind, more }) {
  const app = useApp();
  const choose = (/** @type {any} */ event) => {
    const [file] = event.target.files;
    if (file) readPicture(app, file);
    event.target.value = "";
  };
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  return html`<button type="button" class="add-picture" onClick=${() => input.current?.click()}>
      <${Icon} name="image-plus" />${more ? gettext("One more") : kind === "edit" ? gettext("Change a picture") : gettext("Start from a picture")}
    </button>
    <input ref=${input} class="picture-file" hidden type="file" accept="image/png,image/jpeg,image/webp" onChange=${choose} />`;
}
