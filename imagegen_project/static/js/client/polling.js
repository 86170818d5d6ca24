import { ENDS } from "./feed.js";
import { pause } from "./patience.js";

/**
 * @typedef {import("./feed.js").GenerationEvent} GenerationEvent
 * @typedef {import("./stream.js").Ask} Ask
 */

const PAUSE_MS = 1_500;

/** A generation asked for again and again, as messages: a snapshot whenever it has changed, and its end. */
export class Polling {
  opened = true;
  code = 1006;
  #ask;
  #job;
  #after;
  #signal;

  /**
   * @param {Ask} ask
   * @param {string} job the generation's address
   * @param {number | null} after the number of the last event that was seen
   * @param {AbortSignal | undefined} signal
   */
  constructor(ask, job, after, signal) {
    this.#ask = ask;
    this.#job = job;
    this.#after = after ?? 0;
    this.#signal = signal;
  }

  /** @returns {AsyncGenerator<GenerationEvent, void>} */
  async *[Symbol.asyncIterator]() {
    let shown = "";
    for (;;) {
      const row = await (await this.#ask(this.#job, {})).json();
      const state = `${row.status} ${row.attempt} ${row.step} ${row.phase}`;
      const event = { ...row, prev: this.#after, job_id: row.id, at: new Date().toISOString(), type: "snapshot" };
      const ended = ENDS.has(row.status);
      if (state !== shown || ended) {
        // Numbers of its own would hide events from a socket that opens later.
        yield { ...event, seq: this.#after + (ended ? 1 : 0), type: ended ? row.status : "snapshot" };
      }
      if (ended) return;
      shown = state;
      await pause(PAUSE_MS, this.#signal);
    }
  }
}
