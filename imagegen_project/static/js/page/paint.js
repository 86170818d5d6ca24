/** Painting what is to be drawn anew: with mouse, pen, finger or keys. */
import { Canvas } from "./paint_canvas.js";
import { Dialog, html, Icon, Range, useEffect, useRef, useState } from "./ui.js";
import { gettext } from "./words.js";

const SMALLEST = 0.02;
const LARGEST = 0.4;
const GROWTH = 1.25;
const PLACES = [gettext("top left"), gettext("top"), gettext("top right"), gettext("left"), gettext("middle"), gettext("right"), gettext("bottom left"), gettext("bottom"), gettext("bottom right")];

/**
 * @param {{picture: string, mask: string | null, prompt?: string, close: () => void,
 *   done: (mask: string | null, prompt: string) => void}} props `prompt`: what the painted part is to show; without it
 *   the form asks for that
 */
export function Paint({ picture, mask, prompt, close, done }) {
  const holder = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const canvas = useRef(/** @type {Canvas | null} */ (null));
  const [size, setSize] = useState(0.1);
  const [erasing, setErasing] = useState(false);
  const [count, setCount] = useState(0);
  const [text, setText] = useState(prompt ?? "");
  const [ratio, setRatio] = useState(1);

  useEffect(() => {
    const image = new Image();
    image.onload = async () => {
      if (!holder.current) return;
      setRatio(image.naturalWidth / image.naturalHeight);
      canvas.current = new Canvas(holder.current, image.naturalWidth, image.naturalHeight, setCount);
      if (mask) await canvas.current.load(mask);
    };
    image.src = picture;
    return () => canvas.current?.stop();
  }, [picture]);
  useEffect(() => canvas.current?.use({ size, erasing }), [size, erasing, count]);
  useEffect(() => {
    const keys = (/** @type {KeyboardEvent} */ event) => {
      if (/** @type {HTMLElement} */ (event.target).matches("textarea, input:not([type=range])")) return;
      if (event.key === "[") setSize((/** @type {number} */ now) => Math.max(SMALLEST, now / GROWTH));
      else if (event.key === "]") setSize((/** @type {number} */ now) => Math.min(LARGEST, now * GROWTH));
      else if (event.key === "e") setErasing((/** @type {boolean} */ now) => !now);
      else if (event.key === "i") canvas.current?.invert();
      else if (event.key === "z" && (event.ctrlKey || event.metaKey)) canvas.current?.undo();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);

  const finish = () => done(canvas.current?.mask() ?? null, text.trim());
  const keys = (/** @type {KeyboardEvent} */ event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && count && finish();
  return html`<${Dialog} title=${gettext("Paint over what is to be drawn anew")} close=${close} wide>
    <div class="paint">
      <div class="easel" style=${{ aspectRatio: String(ratio), "--ratio": ratio }}>
        <img src=${picture} alt="" />
        <canvas ref=${holder} aria-label=${gettext("The picture; paint here")} role="img"></canvas>
      </div>
      <div class="brushes">
        <div class="buttons" role="toolbar" aria-label=${gettext("Brushes")}>
          <button class=${erasing ? "toggle" : "toggle on"} aria-pressed=${erasing ? "false" : "true"} onClick=${() => setErasing(false)}><${Icon} name="brush" />${gettext("Brush")}</button>
          <button class=${erasing ? "toggle on" : "toggle"} aria-pressed=${erasing ? "true" : "false"} onClick=${() => setErasing(true)} title="E"><${Icon} name="eraser" />${gettext("Eraser")}</button>
          <button class="toggle" disabled=${!count} onClick=${() => canvas.current?.undo()} title="Ctrl Z"><${Icon} name="undo-2" />${gettext("Undo")}</button>
          <button class="toggle" onClick=${() => canvas.current?.invert()} title="I"><${Icon} name="contrast" />${gettext("Invert")}</button>
        </div>
        <${Range} id="brush-size" label=${html`${gettext("Size")} <kbd>[</kbd> <kbd>]</kbd>`} value=${size} min=${SMALLEST} max=${LARGEST} step=${0.01} change=${setSize} />
        <fieldset class="places"><legend>${gettext("Or a whole part")}</legend>
          ${PLACES.map((place, n) => html`<button key=${n} aria-label=${gettext("Paint {place}", { place })} title=${place} onClick=${() => canvas.current?.place(n % 3, Math.floor(n / 3))}></button>`)}
        </fieldset>
        ${prompt !== undefined &&
        html`<label for="paint-prompt">${gettext("The whole picture shall show")}</label>
          <textarea id="paint-prompt" rows="3" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} onKeyDown=${keys}></textarea>`}
        <footer>
          <button class="quiet" onClick=${close}>${gettext("Close")}</button>
          <button disabled=${!count || (prompt !== undefined && !text.trim())} onClick=${finish}>
            ${prompt === undefined ? gettext("Use this part") : html`<${Icon} name="sparkles" />${gettext("Draw")}`}</button>
        </footer>
      </div>
    </div>
  <//>`;
}
