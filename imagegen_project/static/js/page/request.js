/** Between the form and what the API takes. */
import { mostPictures, pictureKind } from "./models.js";
import { dataUri, pathOf } from "./ui.js";
import { gettext } from "./words.js";

/**
 * @typedef {import("./store.js").Form} Form
 * @typedef {import("../client/client.js").Client} Client
 */

/** Width to height of each of the pictograms. @type {Record<string, number>} */
export const SHAPES = { square: 1, landscape: 3 / 2, portrait: 2 / 3 };

/**
 * The size that a model draws well in a shape: as large an area as its own, within its limits.
 * @param {any} model
 * @param {string} shape
 * @returns {{width: number, height: number}}
 */
export function sizeOf(model, shape) {
  const { width, height } = model.defaults;
  const { min_size: least, max_size: most, size_multiple: multiple } = model.limits;
  const ratio = SHAPES[shape] ?? width / height;
  const side = (/** @type {number} */ length) =>
    Math.min(most, Math.max(least, Math.round(length / multiple) * multiple));
  const area = width * height;
  return { width: side(Math.sqrt(area * ratio)), height: side(Math.sqrt(area / ratio)) };
}

/**
 * What the form asks for; what it leaves to the model is left out.
 * @param {Form} form
 * @param {any} model
 */
export function requestOf(form, model) {
  const size = form.shape === "own" ? { width: form.width, height: form.height } : sizeOf(model, form.shape);
  const steps = form.steps ?? model.defaults.num_inference_steps;
  /** @type {Record<string, any>} */
  const request = { prompt: form.prompt.trim(), model: model.id, ...size, preview_every: previewEvery(steps) };
  if (form.negative_prompt.trim()) request.negative_prompt = form.negative_prompt.trim();
  if (form.steps !== null) request.num_inference_steps = form.steps;
  if (form.guidance_scale !== null) request.guidance_scale = form.guidance_scale;
  if (form.seed !== null) request.seed = form.seed;
  if (form.num_images > 1) request.num_images = form.num_images;
  if (form.scheduler) request.scheduler = form.scheduler;
  if (form.clip_skip) request.clip_skip = form.clip_skip;
  if (model.takes.first_block_cache && form.acceleration !== "none") request.acceleration = form.acceleration;
  if (form.output_format !== "png") request.output_format = form.output_format;
  if (form.loras.length) request.loras = form.loras;
  const [first, ...more] = form.images.slice(0, mostPictures(model)).map(bare);
  if (!first) return request;
  if (pictureKind(model) === "edit") {
    request.images = [first, ...more];
  } else {
    request.image = first;
    request.strength = form.strength;
    if (form.mask && model.kinds.includes("inpaint")) request.mask_image = bare(form.mask);
  }
  if (form.shape !== "own") {
    delete request.width;
    delete request.height;
  }
  return request;
}

/**
 * What the form still lacks for this model, by the request's field.
 * @param {Form} form
 * @param {any} model
 * @returns {Record<string, string>}
 */
export function lacks(form, model) {
  /** @type {Record<string, string>} */
  const missing = {};
  const kind = pictureKind(model);
  const pictures = form.images.length;
  if (!form.prompt.trim()) missing.prompt = kind === "edit" && pictures ? gettext("Say what to change.") : gettext("Say what to draw.");
  if (!pictures && !model.kinds.includes("txt2img")) missing.images = gettext("This model changes pictures: give it one.");
  else if (kind === "inpaint" && !form.mask) missing.images = gettext("This model draws a part anew: paint which one.");
  return missing;
}

/** About a dozen previews, however many steps. @param {number} steps */
export function previewEvery(steps) {
  return Math.max(1, Math.round(steps / 12));
}

/** A data URI without its head. @param {string} uri */
export function bare(uri) {
  return uri.slice(uri.indexOf(",") + 1);
}

/**
 * The form that asks for a generation again.
 * @param {any} row
 * @returns {Partial<Form>}
 */
export function formOf(row) {
  return {
    prompt: row.prompt ?? "",
    negative_prompt: row.negative_prompt ?? "",
    model: row.model ?? "",
    width: row.width ?? 0,
    height: row.height ?? 0,
    shape: row.width ? "own" : "square",
    steps: row.num_inference_steps ?? null,
    guidance_scale: row.guidance_scale ?? null,
    seed: row.seed ?? null,
    num_images: row.num_images ?? 1,
    scheduler: row.scheduler ?? "",
    clip_skip: row.clip_skip ?? 0,
    acceleration: row.acceleration ?? "none",
    output_format: row.output_format ?? "png",
    loras: (row.loras ?? []).map((/** @type {any} */ one) => ({ lora: one.name ?? one.lora, scale: one.scale })),
    strength: row.strength ?? 0.6,
    images: [],
    mask: null,
  };
}

const SETTINGS = [
  ...["prompt", "model", "seed", "width", "height", "num_inference_steps", "guidance_scale", "true_cfg_scale"],
  ...["guidance_rescale", "negative_prompt", "scheduler", "clip_skip", "acceleration", "padding_mask_crop", "output_format"],
  "output_quality",
];

/**
 * What a stored generation says of how it is drawn; what it leaves to the model is left out.
 * @param {any} row
 * @returns {Record<string, any>}
 */
export function settingsOf(row) {
  const said = (/** @type {string} */ name) =>
    ![null, undefined, ""].includes(row[name]) &&
    !(name === "output_quality" && row.output_format === "png") &&
    !(name === "guidance_rescale" && !row[name]) &&
    !(name === "acceleration" && row[name] === "none");
  return Object.fromEntries(SETTINGS.filter(said).map((name) => [name, row[name]]));
}

/**
 * A stored generation's request, with its pictures.
 * @param {Client} client
 * @param {any} row
 * @returns {Promise<Record<string, any>>}
 */
export async function requestAgain(client, row) {
  /** @type {Record<string, any>} */
  const request = { ...settingsOf(row), kind: row.kind, num_images: row.num_images };
  request.preview_every = previewEvery(row.num_inference_steps);
  request.loras = row.loras.map((/** @type {any} */ one) => ({ lora: one.lora, scale: one.scale }));
  const { images, mask } = await picturesOf(client, row);
  if (row.kind === "edit") {
    request.images = images.map(bare);
  } else if (images.length) {
    request.image = bare(images[0]);
    request.strength = row.strength;
  }
  if (mask) request.mask_image = bare(mask);
  return request;
}

/**
 * The pictures that a generation was given.
 * @param {Client} client
 * @param {any} row
 * @returns {Promise<{images: string[], mask: string | null}>} data URIs
 */
export async function picturesOf(client, row) {
  const load = (/** @type {string} */ url) => pictureUri(client, url);
  return { images: await Promise.all(givenTo(row).map(load)), mask: row.urls.mask ? await load(row.urls.mask) : null };
}

/** The addresses of the pictures that a generation started from, or edited. @param {any} row @returns {string[]} */
export function givenTo(row) {
  return row.urls.inputs ?? (row.urls.input ? [row.urls.input] : []);
}

/** @param {Client} client @param {string} url @returns {Promise<string>} */
export async function pictureUri(client, url) {
  return dataUri(await (await client.fetch(pathOf(url))).blob());
}
