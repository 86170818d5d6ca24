import { ConnectionLostError, RefusedError } from "./errors.js";
import { ENDS } from "./feed.js";
import { Patience } from "./patience.js";
import { Polling } from "./polling.js";
import { Socket } from "./socket.js";
import { Stream } from "./stream.js";

/**
 * @typedef {import("./feed.js").GenerationEvent} GenerationEvent
 * @typedef {{path: string, after: number | null, first: object | null}} Door the path of a socket, behind which event
 *   it begins, and what is sent first
 * @typedef {AsyncIterable<GenerationEvent> & {opened: boolean, code: number}} Connection
 */

// Close codes of a connection or a server in trouble, and of a reader that was too slow; others are refusals.
const PASSING_CODES = new Set([1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 4008, 4500, 4503]);
// How often in a row a way to follow may not open, although the service answers, until the next one is tried.
const MAX_UNOPENED = 2;

/** A client of one service, as one user. */
export class Client {
  #base;
  #token;
  /** @type {("socket" | "stream" | "polling")[]} the ways to follow that are left, the best one first */
  #ways = ["socket", "stream", "polling"];
  #unopened = 0;

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
        return await (await this.fetch("/api/v1/generations", options)).json();
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
    await this.fetch(`/api/v1/generations/${jobId}/cancel`, { method: "POST" });
  }

  /**
   * The pictures of a `succeeded` event.
   * @param {GenerationEvent} event
   * @returns {Promise<Blob[]>}
   */
  async pictures(event) {
    const blobs = (event.images ?? []).map(async ({ b64_json: inline, url }) =>
      inline ? new Blob([bytesOf(inline)]) : (await this.fetch(url)).blob(),
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
        const connection = await this.#connection(door(last, jobId), jobId, signal);
        for await (const event of connection) {
          if (event.type === "error") throw new RefusedError(/** @type {any} */ (event));
          patience.renew();
          this.#unopened = 0;
          // `accepted` comes again on each socket; a snapshot stands in for events that are no longer kept.
          const isNew = event.type === "accepted" ? !jobId : event.type === "snapshot" || event.seq > (last ?? 0);
          jobId = event.job_id;
          last = Math.max(last ?? 0, event.seq);
          if (isNew) yield event;
          if (ENDS.has(event.type)) return;
        }
        await this.#explain(connection, jobId, signal);
      } catch (/** @type {any} */ error) {
        if (!error.passing) throw error;
        await patience.pause(error);
      }
    }
  }

  /**
   * The best way that is left to follow; what makes a generation by its first message has only sockets.
   * @param {Door} door
   * @param {string | null} jobId
   * @param {AbortSignal | undefined} signal
   * @returns {Promise<Connection>}
   */
  async #connection({ path, after, first }, jobId, signal) {
    const ask = (/** @type {string} */ at, /** @type {RequestInit} */ options) =>
      this.fetch(at, /** @type {any} */ ({ ...options, signal }));
    if (first || !jobId || this.#ways[0] === "socket") {
      return new Socket(await this.#address(path, after, signal), first, signal);
    }
    const job = `/api/v1/generations/${jobId}`;
    return this.#ways[0] === "stream" ? new Stream(ask, job, after) : new Polling(ask, job, after, signal);
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
      const answer = await this.fetch("/api/v1/tickets", { method: "POST", signal });
      url.searchParams.set("ticket", (await answer.json()).ticket);
    }
    return url;
  }

  /**
   * Throws the reason why a connection ended without a last event.
   * @param {Connection} connection
   * @param {string | null} jobId
   * @param {AbortSignal | undefined} signal
   */
  async #explain(connection, jobId, signal) {
    if (connection.opened && !PASSING_CODES.has(connection.code)) {
      const status = Math.max(0, connection.code - 4000);
      throw new RefusedError({ code: "socket_closed", status, detail: `The socket was closed: ${connection.code}.` });
    }
    if (connection.opened && !jobId) {
      throw new ConnectionLostError("It is unknown whether the request was taken.", { passing: false });
    }
    if (!connection.opened) {
      // A browser does not tell why a socket could not be opened; this question is refused for the same reason.
      await this.fetch(jobId ? `/api/v1/generations/${jobId}` : "/api/v1/generations?limit=1", { signal });
      // It is not: something between lets no such connection through.
      this.#unopened += 1;
      if (this.#unopened >= MAX_UNOPENED && this.#ways.length > 1) {
        this.#ways.shift();
        this.#unopened = 0;
      }
    }
    throw new ConnectionLostError("The connection broke.");
  }

  /**
   * The body of a good answer; null where there is none.
   * @param {string} path
   * @param {{method?: string, body?: unknown, signal?: AbortSignal, headers?: Record<string, string>}} [options]
   *   `body`: a form, or what goes out as JSON
   * @returns {Promise<any>}
   */
  async json(path, { method = "GET", body, signal, headers = {} } = {}) {
    const isForm = body instanceof FormData;
    const answer = await this.fetch(path, {
      method,
      signal,
      body: body === undefined ? undefined : isForm ? body : JSON.stringify(body),
      headers: isForm || body === undefined ? headers : { "Content-Type": "application/json", ...headers },
    });
    return answer.status === 204 ? null : answer.json();
  }

  /**
   * A good answer; throws a RefusedError for others, and a ConnectionLostError where there is none.
   * @param {string} path
   * @param {Omit<RequestInit, "headers"> & {headers?: Record<string, string>}} [options]
   */
  async fetch(path, options = {}) {
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json, image/*", ...options.headers };
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    else headers["X-CSRFToken"] = /(?:^|; )csrftoken=([^;]*)/.exec(document.cookie)?.[1] ?? "";
    const credentials = this.#token ? "omit" : "same-origin";
    let answer;
    try {
      answer = await globalThis.fetch(new URL(path, this.#base), { ...options, headers, credentials });
    } catch (cause) {
      options.signal?.throwIfAborted();
      throw new ConnectionLostError("The service cannot be reached.", { cause });
    }
    if (answer.ok) return answer;
    // What stands between may answer in other words.
    const problem = await answer.json().catch(() => ({ code: "http_error", detail: answer.statusText }));
    const wait = Number(answer.headers.get("Retry-After")) || null;
    throw new RefusedError({ ...problem, status: answer.status, retry_after_s: wait });
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
