/** The generations that this page waits for: made, followed, canceled, and found again after a reload. */
import { ENDS } from "../client/feed.js";
import { gettext } from "./words.js";

/**
 * @typedef {import("../client/feed.js").GenerationEvent} GenerationEvent
 * @typedef {"sending" | "queued" | "downloading" | "loading" | "denoising" | "decoding" | "saving" | "succeeded" |
 *   "failed" | "canceled"} Phase
 * @typedef {{id: string, phase: Phase, prompt: string, width: number, height: number, count: number, seq: number,
 *   step: number, total: number, percent: number, etaS: number | null, preview: string | null, position: number | null,
 *   startsAt: string | null, again: boolean, images: any[], error: {code: string, detail: string} | null,
 *   warnings: any[], download: {percent: number, total: number} | null, canceling: boolean, made: number}} Job
 */

const MAX_FOLLOWED = 12;
// Older ones are in the gallery.
const MAX_ENDED = 24;
const QUEUE_PAUSE_MS = 3_000;
const AWAY_PAUSE_MS = 4_000;
// A page that was asleep for so long cannot know whether its sockets still live.
const ASLEEP_MS = 20_000;

/** @param {Job} job */
export function isOver(job) {
  return ENDS.has(job.phase);
}

/** Those that are on their way, and the last of those that have ended. @param {Job[]} jobs the newest first */
function recent(jobs) {
  let ended = 0;
  return jobs.filter((job) => !isOver(job) || ++ended <= MAX_ENDED);
}

export class Jobs {
  #client;
  #store;
  #onEnd;
  /** @type {Map<string, AbortController>} */
  #followed = new Map();
  #heardAt = Date.now();

  /**
   * @param {import("../client/client.js").Client} client
   * @param {import("./store.js").Store} store
   * @param {(job: Job) => void} onEnd is told of each that has ended
   */
  constructor(client, store, onEnd) {
    this.#client = client;
    this.#store = store;
    this.#onEnd = onEnd;
    addEventListener("online", () => this.#wake(0));
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#wake(ASLEEP_MS));
    setInterval(() => this.#askForPlaces(), QUEUE_PAUSE_MS);
  }

  /** @param {string} id */
  get(id) {
    return this.#store.state.jobs.find((job) => job.id === id);
  }

  /** Finds what is on its way, for instance after a reload. */
  async find() {
    const rows = await this.#client.json(`/api/v1/generations?mine=true&status=queued&status=running&limit=50&fields=${FIELDS}`);
    const known = new Set(this.#store.state.jobs.map((job) => job.id));
    const found = rows.results.filter((/** @type {any} */ row) => !known.has(row.id)).map(jobOf);
    this.#store.set(({ jobs }) => ({ jobs: [...jobs, ...found].sort((a, b) => b.made - a.made) }));
    this.#followNext();
  }

  /**
   * Makes a generation. Its card is there at once.
   * @param {any} request
   * @param {(key: string) => Promise<any>} [send] posts it; by default to `generations`
   * @returns {Promise<Job>} Throws RefusedError and ConnectionLostError.
   */
  async make(request, send) {
    const { prompt, width, height, num_images } = request;
    const placeholder = jobOf({ prompt, width, height, num_images, id: `sending-${Date.now()}-${Math.random()}`, created_at: new Date().toISOString() });
    placeholder.phase = "sending";
    this.#store.set(({ jobs }) => ({ jobs: recent([placeholder, ...jobs]), focus: placeholder.id }));
    try {
      const row = send ? await send(placeholder.id) : await this.#client.create(request);
      const job = jobOf(row);
      const unwanted = this.get(placeholder.id)?.canceling;
      this.#store.set(({ jobs, focus }) => ({
        jobs: jobs.map((one) => (one.id === placeholder.id ? job : one)),
        focus: focus === placeholder.id ? job.id : focus,
      }));
      this.#followNext();
      if (unwanted) await this.cancel(job.id);
      return job;
    } catch (error) {
      this.forget(placeholder.id);
      throw error;
    }
  }

  /** @param {string} id */
  async cancel(id) {
    this.#change(id, { canceling: true });
    // It is canceled as soon as it has an id.
    if (this.get(id)?.phase === "sending") return;
    try {
      await this.#client.cancel(id);
    } catch (/** @type {any} */ error) {
      this.#change(id, { canceling: false });
      if (error.code !== "generation_ended") throw error;
    }
  }

  /** Its picture is on the screen: the preview is not needed any more. @param {string} id */
  settle(id) {
    if (this.get(id)?.preview) this.#change(id, { preview: null });
  }

  /** @param {string} id */
  forget(id) {
    this.#followed.get(id)?.abort();
    this.#store.set(({ jobs, focus }) => ({ jobs: jobs.filter((job) => job.id !== id), focus: focus === id ? null : focus }));
  }

  /** @param {string} id @param {Partial<Job>} fields */
  #change(id, fields) {
    this.#store.set(({ jobs }) => ({ jobs: jobs.map((job) => (job.id === id ? { ...job, ...fields } : job)) }));
  }

  #followNext() {
    const waiting = this.#store.state.jobs.filter((job) => !isOver(job) && job.phase !== "sending");
    for (const job of waiting.reverse()) {
      if (this.#followed.size >= MAX_FOLLOWED) return;
      if (!this.#followed.has(job.id)) this.#follow(job.id);
    }
  }

  /** @param {string} id */
  async #follow(id) {
    const stop = new AbortController();
    this.#followed.set(id, stop);
    try {
      const seq = this.get(id)?.seq ?? 0;
      for await (const event of this.#client.follow(id, { after: seq || null, signal: stop.signal })) {
        this.#heardAt = Date.now();
        if (this.#store.state.away) this.#store.set({ away: false });
        const job = this.get(id);
        if (!job) return;
        this.#change(id, changes(job, event));
      }
      const job = this.get(id);
      if (job && isOver(job)) this.#onEnd(job);
    } catch (/** @type {any} */ error) {
      if (stop.signal.aborted) return;
      if (error.name === "RefusedError" && !error.passing) {
        // Deleted elsewhere, or the session is over.
        if (error.status === 404) this.forget(id);
        else this.#change(id, { phase: "failed", error: { code: error.code, detail: error.message } });
        return;
      }
      this.#store.set({ away: true });
      setTimeout(() => this.#followNext(), AWAY_PAUSE_MS);
    } finally {
      if (this.#followed.get(id) === stop) this.#followed.delete(id);
      if (!this.#store.state.away) this.#followNext();
    }
  }

  /** Follows anew, behind what was seen: nobody tells a page that its connection died. @param {number} silenceMs */
  #wake(silenceMs) {
    if (Date.now() - this.#heardAt < silenceMs) return;
    for (const stop of this.#followed.values()) stop.abort();
    this.#followed.clear();
    this.#followNext();
  }

  /** Places in the queue are not told in the feed. */
  async #askForPlaces() {
    if (document.visibilityState !== "visible") return;
    const waiting = this.#store.state.jobs.filter((job) => job.phase === "queued" || job.phase === "downloading");
    for (const { id } of waiting.slice(-4)) {
      const row = await this.#client.json(`/api/v1/generations/${id}`).catch(() => null);
      if (!row) return;
      this.#change(id, { position: row.queue_position, startsAt: row.estimated_start_at });
    }
  }
}

const FIELDS = "id,status,phase,prompt,width,height,num_images,step,total_steps,percent,attempt,images,error,warnings,created_at";

/** @param {any} row a generation as the API shows it @returns {Job} */
export function jobOf(row) {
  return {
    id: row.id,
    phase: phaseOf(row),
    prompt: row.prompt ?? "",
    width: row.width ?? 512,
    height: row.height ?? 512,
    count: row.num_images ?? 1,
    seq: 0,
    step: row.step ?? 0,
    total: row.total_steps ?? 0,
    percent: row.percent ?? 0,
    etaS: null,
    preview: null,
    position: row.queue_position ?? null,
    startsAt: row.estimated_start_at ?? null,
    again: (row.attempt ?? 0) > 1,
    images: row.images ?? [],
    error: row.error ?? null,
    warnings: row.warnings ?? [],
    download: null,
    canceling: Boolean(row.cancel_requested),
    made: Date.parse(row.created_at ?? "") || Date.now(),
  };
}

/** @param {any} row @returns {Phase} */
function phaseOf(row) {
  if (ENDS.has(row.status)) return row.status;
  if (row.phase) return row.phase;
  if (row.status !== "running") return "queued";
  return row.total_steps && row.step >= row.total_steps ? "decoding" : row.step ? "denoising" : "loading";
}

/**
 * What an event changes.
 * @param {Job} job
 * @param {GenerationEvent} event
 * @returns {Partial<Job>}
 */
function changes(job, event) {
  const seq = Math.max(job.seq, event.seq);
  switch (event.type) {
    case "snapshot":
      return {
        seq,
        phase: phaseOf(event),
        step: event.step ?? job.step,
        total: event.total_steps ?? job.total,
        percent: event.percent ?? job.percent,
        warnings: event.warnings ?? job.warnings,
        images: event.images ?? job.images,
        error: event.error ?? null,
        again: job.again || event.attempt > 1,
      };
    case "queued":
      return { seq, phase: "queued", total: event.total_steps ?? job.total, step: 0, percent: 0, again: job.again || Boolean(event.reason) };
    case "downloading":
      return { seq, phase: "downloading", download: { percent: event.percent ?? 0, total: event.total_bytes ?? 0 } };
    case "started":
      return { seq, phase: "loading", warnings: event.warnings ?? job.warnings, position: null, step: 0, percent: 0 };
    case "progress": {
      const done = (event.step ?? 0) >= (event.total_steps ?? Infinity);
      return {
        seq,
        phase: done ? "decoding" : "denoising",
        step: event.step ?? job.step,
        total: event.total_steps ?? job.total,
        percent: event.percent ?? job.percent,
        etaS: event.eta_s ?? null,
        preview: event.preview ? `data:image/jpeg;base64,${event.preview}` : job.preview,
      };
    }
    case "warning":
      return { seq, warnings: [...job.warnings, ...(event.warnings ?? [])] };
    case "succeeded":
      // Beneath several pictures, no preview stays until they have come.
      return { seq, phase: "succeeded", percent: 100, images: event.images ?? [], canceling: false, preview: event.images?.length === 1 ? job.preview : null };
    case "failed":
      return { seq, phase: "failed", error: event.error ?? null };
    case "canceled":
      return { seq, phase: "canceled", canceling: false };
    default:
      // Such as `phase`: what a later service tells besides.
      return event.phase ? { seq, phase: /** @type {Phase} */ (event.phase) } : { seq };
  }
}

/**
 * What a job is at, in words.
 * @param {Job} job
 * @param {{duration: (s: number) => string, size: (bytes: number) => string, ordinal: (n: number) => string}} words
 */
export function told(job, { duration, size, ordinal }) {
  if (job.canceling && !isOver(job)) return gettext("Canceling");
  const again = job.again ? gettext("The worker was lost; starting again with the same seed. ") : "";
  switch (job.phase) {
    case "sending":
      return gettext("Sending");
    case "queued": {
      if (job.position === null) return again + gettext("In the queue");
      const seconds = job.startsAt ? (Date.parse(job.startsAt) - Date.now()) / 1000 : NaN;
      const place = job.position === 1 ? gettext("Next") : gettext("{nth} in the queue", { nth: ordinal(job.position) });
      return again + (seconds > 1 ? gettext("{place}, about {time}", { place, time: duration(seconds) }) : place);
    }
    case "downloading": {
      const of = job.download?.total ? gettext(" of {size}", { size: size(job.download.total) }) : "";
      return gettext("Fetching the model: {percent} %", { percent: Math.round(job.download?.percent ?? 0) }) + of;
    }
    case "loading":
      return again + gettext("Loading the model");
    case "denoising": {
      const left = job.etaS === null ? "" : gettext(", {time} left", { time: duration(job.etaS) });
      return again + gettext("Step {step} of {total}", { step: job.step, total: job.total }) + left;
    }
    case "decoding":
      return gettext("Decoding");
    case "saving":
      return gettext("Saving");
    case "succeeded":
      return gettext("Done");
    case "failed":
      return gettext("That did not work");
    default:
      return gettext("Canceled");
  }
}
