/** One box, one button; the rest folded. */
import { Advanced } from "./advanced.js";
import { chosenModel, ModelPicker, pictureKind } from "./models.js";
import { lacks, requestOf, SHAPES } from "./request.js";
import { PictureField } from "./picture_field.js";
import { html, Icon, useApp, useEffect, useRef, useStore } from "./ui.js";
import { gettext } from "./words.js";

/** @typedef {import("./ui.js").App} App */

/**
 * Sends what the form says. The form stays as it is, so that the next one can follow at once.
 * @param {App} app
 */
export async function draw({ store, jobs, bad }) {
  const { state } = store;
  const model = chosenModel(state);
  if (!model) return;
  const errors = lacks(state.form, model);
  store.set({ errors });
  if (errors.prompt) document.getElementById("prompt")?.focus();
  if (Object.keys(errors).length) return;
  try {
    const made = jobs.make(requestOf(state.form, model));
    show();
    await made;
  } catch (/** @type {any} */ error) {
    const errors = Object.fromEntries((error.errors ?? []).map((/** @type {any} */ one) => [one.param, one.detail]));
    store.set({ errors });
    const shown = Object.keys(errors).length && error.status === 400;
    if (!shown || !("prompt" in errors)) bad(error);
  }
}

/** Where the form fills the screen, the picture is brought into sight. */
function show() {
  if (!matchMedia("(max-width: 52rem)").matches) return;
  requestAnimationFrame(() => document.querySelector(".card.large")?.scrollIntoView({ block: "center", behavior: "smooth" }));
}

export function PromptForm() {
  const app = useApp();
  const { store } = app;
  const prompt = useStore((state) => state.form.prompt);
  const shape = useStore((state) => state.form.shape);
  const trouble = useStore((state) => state.errors.prompt);
  const ready = useStore((state) => state.models.length > 0);
  const model = useStore(chosenModel);
  const given = useStore((state) => state.form.images.length > 0);
  const box = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  useEffect(() => {
    if (matchMedia("(pointer: fine)").matches) box.current?.focus();
  }, []);
  // Whose shape is that of the picture which it is given.
  const shaped = model && (given ? pictureKind(model) : !model.kinds.includes("txt2img"));
  const changes = model && pictureKind(model) === "edit" && shaped;
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    draw(app);
  };
  const keys = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  return html`<form class="prompt" onSubmit=${submit} aria-label=${gettext("What to draw")}>
    <label class="visually-hidden" for="prompt">${gettext("Prompt")}</label>
    <textarea
      id="prompt"
      ref=${box}
      rows="3"
      placeholder=${changes ? gettext("Say what to change") : gettext("Describe a picture")}
      value=${prompt}
      aria-invalid=${trouble ? "true" : null}
      aria-describedby=${trouble ? "prompt-trouble" : null}
      onInput=${(/** @type {any} */ event) => store.fill({ prompt: event.target.value })}
      onKeyDown=${keys}
    ></textarea>
    ${trouble && html`<p id="prompt-trouble" class="trouble">${trouble}</p>`}
    <${PictureField} />
    <div class="row">
      ${!shaped && html`<fieldset class="shapes" aria-label=${gettext("Shape")}>
        ${Object.keys(SHAPES).map(
          (name) => html`<label key=${name} title=${SHAPE_NAMES[name]}>
            <input type="radio" name="shape" value=${name} checked=${shape === name} onChange=${() => store.fill({ shape: name })} />
            <span class=${`pictogram ${name}`}></span>
            <span class="visually-hidden">${SHAPE_NAMES[name]}</span>
          </label>`,
        )}
      </fieldset>`}
      <button class="draw" disabled=${!ready}>
        <${Icon} name="sparkles" />${gettext("Draw")}
        <kbd>Ctrl ↵</kbd>
      </button>
    </div>
    <${ModelPicker} />
    <${Advanced} />
  </form>`;
}

/** @type {Record<string, string>} */
const SHAPE_NAMES = { square: gettext("Square"), landscape: gettext("Landscape"), portrait: gettext("Portrait") };
