/**
 * The browser's client: makes generations, follows them to their end, and comes back when the connection breaks.
 *
 *     import { Client } from "/static/js/main.js";
 *     const client = new Client({ token }); // without a token: with the page's session
 *     for await (const event of client.generate({ prompt: "a red circle" })) {
 *       if (event.type === "succeeded") picture.src = URL.createObjectURL((await client.pictures(event))[0]);
 *     }
 *
 * Every event comes once and in order, however often the connection broke; the last one is `succeeded`, `failed` or
 * `canceled`. What the service refuses is thrown as a RefusedError and not tried again. A token never stands in an
 * address: sockets are opened with a single-use ticket, or by the session's cookie.
 *
 * @typedef {{index: number, seed: number, width: number, height: number, sha256: string, url: string,
 *   b64_json?: string}} Picture
 * @typedef {{type: string, seq: number, prev: number, job_id: string, at: string, attempt: number, step?: number,
 *   total_steps?: number, percent?: number, eta_s?: number | null, preview?: string | null, seed?: number,
 *   status?: string, images?: Picture[], error?: {code: string, detail: string},
 *   warnings?: {param: string, reason: string, used: unknown}[]}} GenerationEvent
 * @typedef {{code: string, status: number, title?: string, detail?: string, job_id?: string | null,
 *   errors?: {param: string, code: string, detail: string}[]}} Problem
 * @typedef {{path: string, after: number | null, first: object | null}} Door the path of a socket, behind which event
 *   it begins, and what is sent first
 */

const ENDS = new Set(["succeeded", "failed", "canceled"]);
// Close codes of a connection or a server in trouble, and of a reader that was too slow; others are refusals.
const PASSING_CODES = new Set([1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 4008, 4500, 4503]);
const PASSING_STATUSES = new Set([429, 502, 503, 504]);
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 15_000;
const MAX_FAILURES = 12;
// A connection that died unnoticed (a laptop that slept) is silent for ever; a new one costs little.
const SILENCE_MS = 60_000;

/** The service said no. `code` is stable, `status` is HTTP's, and `errors` says what is wrong with which field. */
export class RefusedError extends Error {
  name = "RefusedError";

  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.detail || problem.title || problem.code);
    this.code = problem.code;
    this.status = problem.status;
    this.errors = problem.errors ?? [];
    this.jobId = problem.job_id ?? null;
    // A socket's error without a job refuses the request itself.
    this.passing = PASSING_STATUSES.has(problem.status) && problem.job_id !== null;
  }
}

/** The service cannot be reached, or it is unknown whether it took a request. */
export class ConnectionLostError extends Error {
  name = "ConnectionLostError";

  /**
   * @param {string} message
   * @param {{passing?: boolean, cause?: unknown}} [options] `passing`: whether it may be otherwise in a while
   */
  constructor(message, { passing = true, cause } = {}) {
    super(message, { cause });
    this.passing = passing;
  }
}

export class Client {
  #base;
  #token;

  /**
   * @param {{token?: string | null, base?: string}} [options] `token`: a local or a Hub token; without one, requests
   *   go out with the page's session. `base`: where the service is, if it is not where the page came from.
   */
  constructor({ token = null, base = location.origin } = {}) {
    this.#base = base;
    this.#token = token;
  }

  /**
   * Makes a generation over HTTP, once, however often that has to be tried.
   * @param {object} request the fields of `POST /api/v1/generations`
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<{id: string, status: string}>} the generation as it stands
   */
  async create(request, { signal } = {}) {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": randomKey() };
    const patience = new Patience(signal);
    for (;;) {
      try {
        const options = { method: "POST", body: JSON.stringify(request), headers, signal };
        return await (await this.#fetch("/api/v1/generations", options)).json();
      } catch (/** @type {any} */ error) {
        // A user's own limit may hold for an hour.
        if (!error.passing || error.status === 429) throw error;
        await patience.pause(error);
      }
    }
  }

  /**
   * Makes a generation over HTTP and follows it.
   * @param {object} request the fields of `POST /api/v1/generations`
   * @param {{signal?: AbortSignal}} [options]
   * @returns {AsyncGenerator<GenerationEvent, void>}
   */
  async *generate(request, { signal } = {}) {
    const { id } = await this.create(request, { signal });
    yield* this.follow(id, { after: 0, signal });
  }

  /**
   * The events of a generation, through whichever door it was made.
   * @param {string} jobId
   * @param {{after?: number | null, signal?: AbortSignal}} [options] `after`: the `seq` of the last event that was
   *   seen; without it a `snapshot` comes first, and then everything from the start
   * @returns {AsyncGenerator<GenerationEvent, void>}
   */
  async *follow(jobId, { after = null, signal } = {}) {
    const path = `/ws/generations/${jobId}/`;
    yield* this.#events(jobId, after, signal, (last) => ({ path, after: last, first: null }));
  }

  /**
   * Makes a generation over a streaming socket: `accepted` comes first, and `succeeded` brings the pictures along.
   *
   * Throws a ConnectionLostError when the connection breaks between the request and `accepted`: nobody knows then
   * whether there is a generation.
   * @param {object} request the fields of `POST /api/v1/generate/<kind>`
   * @param {{kind?: "txt2img" | "img2img", signal?: AbortSignal}} [options]
   * @returns {AsyncGenerator<GenerationEvent, void>}
   */
  async *stream(request, { kind = "txt2img", signal } = {}) {
    const path = `/stream/generate/${kind}`;
    yield* this.#events(null, null, signal, (last, jobId) => ({
      path,
      after: null,
      first: jobId ? { job_id: jobId, after: last } : request,
    }));
  }

  /**
   * Cancels a generation; its last event says what came of that.
   * @param {string} jobId
   */
  async cancel(jobId) {
    await this.#fetch(`/api/v1/generations/${jobId}/cancel`, { method: "POST" });
  }

  /**
   * The pictures of a `succeeded` event.
   * @param {GenerationEvent} event
   * @returns {Promise<Blob[]>}
   */
  async pictures(event) {
    const blobs = (event.images ?? []).map(async ({ b64_json: inline, url }) =>
      inline ? new Blob([bytesOf(inline)]) : (await this.#fetch(url)).blob(),
    );
    return Promise.all(blobs);
  }

  /**
   * Events up to the last one, over as many sockets as it takes.
   * @param {string | null} jobId null where the first message makes the generation
   * @param {number | null} last the number of the last event that was seen
   * @param {AbortSignal | undefined} signal
   * @param {(last: number | null, jobId: string | null) => Door} door where to go on
   * @returns {AsyncGenerator<GenerationEvent, void>}
   */
  async *#events(jobId, last, signal, door) {
    const patience = new Patience(signal);
    for (;;) {
      try {
        const { path, after, first } = door(last, jobId);
        const socket = new Socket(await this.#address(path, after, signal), first, signal);
        for await (const event of socket) {
          if (event.type === "error") throw new RefusedError(/** @type {any} */ (event));
          patience.renew();
          // `accepted` comes again on each socket; a snapshot stands in for events that are no longer kept.
          const isNew = event.type === "accepted" ? !jobId : event.type === "snapshot" || event.seq > (last ?? 0);
          jobId = event.job_id;
          last = Math.max(last ?? 0, event.seq);
          if (isNew) yield event;
          if (ENDS.has(event.type)) return;
        }
        await this.#explain(socket, jobId, signal);
      } catch (/** @type {any} */ error) {
        if (!error.passing) throw error;
        await patience.pause(error);
      }
    }
  }

  /**
   * The address of a socket: with a fresh ticket in place of a token.
   * @param {string} path
   * @param {number | null} after
   * @param {AbortSignal | undefined} signal
   */
  async #address(path, after, signal) {
    const url = new URL(path, this.#base);
    url.protocol = url.protocol.replace("http", "ws");
    if (after !== null) url.searchParams.set("after", String(after));
    if (this.#token) {
      const answer = await this.#fetch("/api/v1/tickets", { method: "POST", signal });
      url.searchParams.set("ticket", (await answer.json()).ticket);
    }
    return url;
  }

  /**
   * Throws the reason why a socket ended without a last event.
   * @param {Socket} socket
   * @param {string | null} jobId
   * @param {AbortSignal | undefined} signal
   */
  async #explain(socket, jobId, signal) {
    if (socket.opened && !PASSING_CODES.has(socket.code)) {
      const status = Math.max(0, socket.code - 4000);
      throw new RefusedError({ code: "socket_closed", status, detail: `The socket was closed: ${socket.code}.` });
    }
    if (socket.opened && !jobId) {
      throw new ConnectionLostError("It is unknown whether the request was taken.", { passing: false });
    }
    if (!socket.opened) {
      // A browser does not tell why a socket could not be opened; this question is refused for the same reason.
      await this.#fetch(jobId ? `/api/v1/generations/${jobId}` : "/api/v1/generations?limit=1", { signal });
    }
    throw new ConnectionLostError("The connection broke.");
  }

  /**
   * A good answer; throws a RefusedError for others, and a ConnectionLostError where there is none.
   * @param {string} path
   * @param {Omit<RequestInit, "headers"> & {headers?: Record<string, string>}} [options]
   */
  async #fetch(path, options = {}) {
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json, image/*", ...options.headers };
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    else headers["X-CSRFToken"] = /(?:^|; )csrftoken=([^;]*)/.exec(document.cookie)?.[1] ?? "";
    const credentials = this.#token ? "omit" : "same-origin";
    let answer;
    try {
      answer = await fetch(new URL(path, this.#base), { ...options, headers, credentials });
    } catch (cause) {
      options.signal?.throwIfAborted();
      throw new ConnectionLostError("The service cannot be reached.", { cause });
    }
    if (answer.ok) return answer;
    // What stands between may answer in other words.
    const problem = await answer.json().catch(() => ({ code: "http_error", detail: answer.statusText }));
    throw new RefusedError({ ...problem, status: answer.status });
  }
}

/** Pauses after failures in a row: each about twice as long as the one before, and no two clients' alike. */
class Patience {
  #failures = 0;
  #signal;

  /** @param {AbortSignal | undefined} signal */
  constructor(signal) {
    this.#signal = signal;
  }

  /** Something worked. */
  renew() {
    this.#failures = 0;
  }

  /**
   * Waits; throws the error when there were too many.
   * @param {Error} error
   */
  async pause(error) {
    this.#failures += 1;
    if (this.#failures > MAX_FAILURES) throw error;
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#failures);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, longest * (0.5 + Math.random() / 2));
      this.#signal?.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
    });
    this.#signal?.throwIfAborted();
  }
}

/** A WebSocket as its messages, until it closes; `opened` and `code` say how it went. */
class Socket {
  opened = false;
  code = 0;
  /** @type {GenerationEvent[]} */
  #arrived = [];
  #stir = () => {};
  #socket;
  #signal;

  /**
   * @param {URL} url
   * @param {object | null} first what is sent as soon as it is open
   * @param {AbortSignal | undefined} signal
   */
  constructor(url, first, signal) {
    this.#signal = signal;
    this.#socket = new WebSocket(url);
    this.#socket.onopen = () => {
      this.opened = true;
      if (first) this.#socket.send(JSON.stringify(first));
    };
    this.#socket.onmessage = ({ data }) => {
      this.#arrived.push(JSON.parse(data));
      this.#stir();
    };
    this.#socket.onclose = ({ code }) => this.#end(code);
  }

  /** @returns {AsyncGenerator<GenerationEvent, void>} */
  async *[Symbol.asyncIterator]() {
    const abort = () => this.#stir();
    this.#signal?.addEventListener("abort", abort);
    try {
      for (;;) {
        this.#signal?.throwIfAborted();
        const event = this.#arrived.shift();
        if (event) yield event;
        else if (this.code) return;
        else await this.#next();
      }
    } finally {
      this.#signal?.removeEventListener("abort", abort);
      this.#socket.close();
    }
  }

  async #next() {
    const timer = setTimeout(() => this.#end(1006), SILENCE_MS);
    await new Promise((resolve) => {
      this.#stir = () => resolve(undefined);
    });
    clearTimeout(timer);
  }

  /** @param {number} code */
  #end(code) {
    this.code ||= code;
    this.#stir();
  }
}

/** Random without `randomUUID`, which pages over plain HTTP lack. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16)).join("-");
}

/** @param {string} base64 */
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}
