/**
 * One place for everything that several parts of the page know.
 *
 * @typedef {import("./jobs.js").Job} Job
 * @typedef {{lora: string, scale: number}} Style
 * @typedef {{prompt: string, negative_prompt: string, model: string, width: number, height: number, shape: string,
 *   steps: number | null, guidance_scale: number | null, seed: number | null, num_images: number, scheduler: string,
 *   clip_skip: number, acceleration: string, output_format: string, loras: Style[], strength: number, images: string[],
 *   mask: string | null}} Form `images` (to start from, or to edit) and `mask`: data URIs; null: what the model does by
 *   itself
 * @typedef {{id: string, text: string, kind: "info" | "bad", action?: {label: string, run: () => void}}} Notice
 * @typedef {{rows: any[], next: string | null, loading: boolean, started: boolean, q: string, favorite: boolean,
 *   selected: string[], anchor: string | null, trouble: string}} Gallery
 * @typedef {{page: "create" | "gallery" | "picture" | "account", id: string | null}} Route
 * @typedef {{models: any[], loras: any[], capabilities: any, form: Form, errors: Record<string, string>, jobs: Job[],
 *   focus: string | null, gallery: Gallery, notices: Notice[], route: Route, away: boolean, help: boolean,
 *   said: string}} State
 */

export class Store {
  /** @type {State} */
  #state;
  /** @type {Set<() => void>} */
  #listeners = new Set();

  /** @param {State} state */
  constructor(state) {
    this.#state = state;
  }

  get state() {
    return this.#state;
  }

  /**
   * Replaces some parts; whoever listens is told.
   * @param {Partial<State> | ((state: State) => Partial<State>)} change
   */
  set(change) {
    const parts = typeof change === "function" ? change(this.#state) : change;
    this.#state = { ...this.#state, ...parts };
    for (const listener of this.#listeners) listener();
  }

  /**
   * Changes some fields of the form, and forgets what was wrong with them.
   * @param {Partial<Form>} fields
   */
  fill(fields) {
    this.set(({ form, errors }) => {
      const left = Object.entries(errors).filter(([name]) => !(name in fields));
      return { form: { ...form, ...fields }, errors: Object.fromEntries(left) };
    });
  }

  /** @param {Partial<Gallery>} fields */
  setGallery(fields) {
    this.set(({ gallery }) => ({ gallery: { ...gallery, ...fields } }));
  }

  /**
   * @param {() => void} listener
   * @returns {() => void} ends it
   */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** @returns {Form} */
export function emptyForm() {
  return {
    prompt: "",
    negative_prompt: "",
    model: "",
    width: 0,
    height: 0,
    shape: "square",
    steps: null,
    guidance_scale: null,
    seed: null,
    num_images: 1,
    scheduler: "",
    clip_skip: 0,
    acceleration: "none",
    output_format: "png",
    loras: [],
    strength: 0.6,
    images: [],
    mask: null,
  };
}

const KEPT_IN = "imagegen.form";

/** The form as it was left; pictures are not kept. @returns {Form} */
export function keptForm() {
  try {
    return { ...emptyForm(), ...JSON.parse(localStorage.getItem(KEPT_IN) ?? "{}") };
  } catch {
    return emptyForm();
  }
}

/** @param {Form} form */
export function keepForm(form) {
  try {
    localStorage.setItem(KEPT_IN, JSON.stringify({ ...form, images: [], mask: null }));
  } catch {
    // A browser that keeps nothing only forgets.
  }
}
