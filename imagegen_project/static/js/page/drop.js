/** Pictures that are dropped, pasted or chosen: to start from, or, where one of ours, for their settings. */
import { chosenModel, mostPictures } from "./models.js";
import { formOf } from "./request.js";
import { dataUri, html, useApp, useEffect, useState } from "./ui.js";
import { gettext } from "./words.js";

/** @typedef {import("./ui.js").App} App */

const TAKEN = new Set(["image/png", "image/jpeg", "image/webp"]);
// Larger than any model draws, and small enough for a request.
const LONGEST_SIDE = 1536;
const MOST_BYTES = 4_000_000;

/**
 * The picture in a form and size that the service takes, upright.
 * @param {Blob} file
 * @returns {Promise<string>} a data URI; throws where it is no picture
 */
async function fitted(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && TAKEN.has(file.type) && file.size <= MOST_BYTES) return dataUri(file);
  const sheet = document.createElement("canvas");
  sheet.width = Math.round(bitmap.width * scale);
  sheet.height = Math.round(bitmap.height * scale);
  sheet.getContext("2d")?.drawImage(bitmap, 0, 0, sheet.width, sheet.height);
  return sheet.toDataURL("image/jpeg", 0.95);
}

/**
 * What a picture's file says of how it was made.
 * @param {App} app
 * @param {Blob} file
 * @returns {Promise<any>} request fields, or null
 */
async function settingsOf({ client }, file) {
  const body = new FormData();
  body.append("image", file);
  try {
    const said = await client.json("/api/v1/png-info/", { method: "POST", body });
    return said.request?.prompt ? said.request : null;
  } catch {
    return null;
  }
}

/**
 * Takes a picture: its settings where it has any, else itself.
 * @param {App} app
 * @param {Blob} file
 */
export async function readPicture(app, file) {
  const { store, go, notify, bad } = app;
  const start = async () => {
    try {
      const picture = await fitted(file);
      const most = mostPictures(chosenModel(store.state));
      if (!most) return bad(new Error(gettext("This model draws from words alone: it takes no picture.")));
      // One more to edit beside the others, where the model takes several.
      store.fill({ images: [...store.state.form.images.slice(0, most - 1), picture], mask: null, strength: 0.6 });
      if (store.state.route.page !== "create") go("/");
    } catch {
      bad(new Error(gettext("That is no picture that can be read.")));
    }
  };
  const request = await settingsOf(app, file);
  if (!request) return start();
  store.fill(formOf(request));
  go("/");
  notify(gettext("The settings of this picture are in the form."), { label: gettext("Start from the picture instead"), run: start });
}

/** Listens on the whole page, and says so while something is held over it. */
export function DropArea() {
  const app = useApp();
  const [over, setOver] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    const { signal } = stop;
    const take = (/** @type {DataTransfer | null} */ data, /** @type {Event} */ event) => {
      const file = [...(data?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      readPicture(app, file);
    };
    addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setOver(true);
    }, { signal });
    addEventListener("dragleave", (event) => !event.relatedTarget && setOver(false), { signal });
    addEventListener("drop", (event) => {
      setOver(false);
      if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
      take(event.dataTransfer, event);
    }, { signal });
    addEventListener("paste", (event) => take(event.clipboardData, event), { signal });
    return () => stop.abort();
  }, []);
  return over && html`<div class="drop-area"><p>${gettext("Let go: to start from this picture, or to take its settings")}</p></div>`;
}
