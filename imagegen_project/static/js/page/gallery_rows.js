/** One's own pictures, newest first, as they are scrolled to. */

const PAGE = 40;
const FIELDS = "id,prompt,width,height,num_images,images,created_at,favorite,status";

export class GalleryRows {
  #client;
  #store;
  #turn = 0;
  /** @type {Promise<unknown>} */
  #marking = Promise.resolve();

  /**
   * @param {import("../client/client.js").Client} client
   * @param {import("./store.js").Store} store
   */
  constructor(client, store) {
    this.#client = client;
    this.#store = store;
  }

  /** Loads the first page, once. */
  async start() {
    if (!this.#store.state.gallery.started) await this.search({});
  }

  /**
   * Begins anew with another question.
   * @param {{q?: string, favorite?: boolean}} question
   */
  async search(question) {
    this.#turn += 1;
    this.#store.setGallery({ ...question, rows: [], next: null, started: true, selected: [], anchor: null, trouble: "" });
    await this.#load(null);
  }

  /** Loads the page behind what is there. */
  async more() {
    const { next, loading } = this.#store.state.gallery;
    if (next && !loading) await this.#load(next);
  }

  /** @param {string | null} next */
  async #load(next) {
    const turn = this.#turn;
    const { q, favorite } = this.#store.state.gallery;
    const query = new URLSearchParams({ mine: "true", status: "succeeded", limit: String(PAGE), fields: FIELDS });
    if (q) query.set("q", q);
    if (favorite) query.set("favorite", "true");
    this.#store.setGallery({ loading: true, trouble: "" });
    try {
      await this.#marking; // a list that was asked for earlier would lack what has just become a favourite
      const page = await this.#client.json(next ?? `/api/v1/generations?${query}`);
      if (turn !== this.#turn) return;
      const rows = [...this.#store.state.gallery.rows, ...page.results.filter((/** @type {any} */ row) => row.images?.length)];
      this.#store.setGallery({ rows, next: page.next && pathOf(page.next), loading: false });
    } catch (/** @type {any} */ error) {
      if (turn === this.#turn) this.#store.setGallery({ loading: false, trouble: error.message });
    }
  }

  /** Puts a new picture in front. @param {import("./jobs.js").Job} job */
  async add(job) {
    const { started, rows, q, favorite } = this.#store.state.gallery;
    if (!started || q || favorite || rows.some((row) => row.id === job.id)) return;
    const row = {
      id: job.id, prompt: job.prompt, width: job.width, height: job.height, num_images: job.count, images: job.images,
      created_at: new Date(job.made).toISOString(), favorite: false, status: "succeeded",
    };
    this.#store.setGallery({ rows: [row, ...rows].sort((a, b) => b.created_at.localeCompare(a.created_at)) });
  }

  /** @param {string} id @param {boolean} favorite */
  async mark(id, favorite) {
    const mark = (/** @type {boolean} */ value) =>
      this.#store.setGallery({ rows: this.#store.state.gallery.rows.map((row) => (row.id === id ? { ...row, favorite: value } : row)) });
    mark(favorite);
    const saved = this.#client.json(`/api/v1/generations/${id}/`, { method: "PATCH", body: { favorite } });
    this.#marking = Promise.allSettled([this.#marking, saved]);
    try {
      await saved;
    } catch (error) {
      mark(!favorite);
      throw error;
    }
  }

  /** @param {string[]} ids */
  async remove(ids) {
    await this.#client.json("/api/v1/generations/delete/", { method: "POST", body: { ids } });
    const gone = new Set(ids);
    const { rows, selected } = this.#store.state.gallery;
    this.#store.setGallery({ rows: rows.filter((row) => !gone.has(row.id)), selected: selected.filter((id) => !gone.has(id)) });
    this.#store.set(({ jobs }) => ({ jobs: jobs.filter((job) => !gone.has(job.id)) }));
  }

  /**
   * Selects one or lets it go; with Shift, all from the last one that was clicked.
   * @param {string} id
   * @param {boolean} range
   */
  select(id, range) {
    const { rows, selected, anchor } = this.#store.state.gallery;
    const at = (/** @type {string | null} */ one) => rows.findIndex((row) => row.id === one);
    if (range && at(anchor) >= 0) {
      const [from, to] = [at(anchor), at(id)].sort((a, b) => a - b);
      const between = rows.slice(from, to + 1).map((row) => row.id);
      this.#store.setGallery({ selected: [...new Set([...selected, ...between])] });
      return;
    }
    const without = selected.filter((one) => one !== id);
    this.#store.setGallery({ selected: without.length < selected.length ? without : [...selected, id], anchor: id });
  }
}

/** @param {string} url */
function pathOf(url) {
  const { pathname, search } = new URL(url, location.origin);
  return pathname + search;
}
