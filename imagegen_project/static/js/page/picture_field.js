/** The picture that a drawing starts from, and how much of it may change. */
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

export function PictureField() {
  const app = useApp();
  const { store } = app;
  const image = useStore((state) => state.form.image);
  const mask = useStore((state) => state.form.mask);
  const strength = useStore((state) => state.form.strength);
  const trouble = useStore((state) => state.errors.image ?? state.errors.mask_image ?? state.errors.strength);
  const [painting, setPainting] = useState(false);
  if (!image) return null;
  const done = (/** @type {string | null} */ painted) => {
    store.fill(painted ? { mask: painted, strength: 1 } : { mask: null });
    setPainting(false);
  };
  return html`<div class="start">
    <div class="start-picture">
      <img src=${image} alt=${gettext("The picture to start from")} />
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
        <button type="button" class="quiet" onClick=${() => setPainting(true)}>
          <${Icon} name="brush" />${mask ? gettext("Paint on") : gettext("Only a part")}
        </button>
        <button type="button" class="quiet" onClick=${() => store.fill({ image: null, mask: null, shape: "square" })}>
          <${Icon} name="x" />${gettext("Without it")}
        </button>
      </div>
      ${trouble && html`<p class="trouble">${trouble}</p>`}
    </div>
    ${painting && html`<${Paint} picture=${image} mask=${mask} close=${() => setPainting(false)} done=${done} />`}
  </div>`;
}

/** A button that asks for a file. */
export function AddPicture() {
  const app = useApp();
  const choose = (/** @type {any} */ event) => {
    const [file] = event.target.files;
    if (file) readPicture(app, file);
    event.target.value = "";
  };
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  return html`<button type="button" class="add-picture" onClick=${() => input.current?.click()}>
      <${Icon} name="image-plus" />${gettext("Start from a picture")}
    </button>
    <input ref=${input} class="picture-file" hidden type="file" accept="image/png,image/jpeg,image/webp" onChange=${choose} />`;
}
