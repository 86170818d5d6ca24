/**
 * @typedef {import("./feed.js").GenerationEvent} GenerationEvent
 * @typedef {(path: string, options: {headers?: Record<string, string>, signal?: AbortSignal}) => Promise<Response>} Ask
 */

// The service says something at once and then every quarter of a minute; who holds that back lets no events through.
const FIRST_WORD_MS = 8_000;
const SILENCE_MS = 45_000;

/** Server-sent events as messages, until they end; `opened` says whether they came as they were sent. */
export class Stream {
  opened = false;
  code = 0;
  #ask;
  #job;
  #after;

  /**
   * @param {Ask} ask
   * @param {string} job the generation's address
   * @param {number | null} after the number of the last event that was seen
   */
  constructor(ask, job, after) {
    this.#ask = ask;
    this.#job = job;
    this.#after = after;
  }

  /** @returns {AsyncGenerator<GenerationEvent, void>} */
  async *[Symbol.asyncIterator]() {
    const query = this.#after === null ? "" : `?after=${this.#after}`;
    const answer = await this.#ask(`${this.#job}/events${query}`, { headers: { Accept: "text/event-stream" } });
    if (!answer.body) return;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      let rest = "";
      for (;;) {
        const chunk = await within(reader.read(), this.opened ? SILENCE_MS : FIRST_WORD_MS);
        if (!chunk || chunk.done) break;
        this.opened = true;
        const blocks = (rest + chunk.value).split("\n\n");
        rest = blocks.pop() ?? "";
        for (const block of blocks) {
          const data = /^data: (.*)$/m.exec(block);
          if (data) yield JSON.parse(data[1]);
        }
      }
    } catch (error) {
      if (/** @type {Error} */ (error).name === "AbortError") throw error;
    } finally {
      this.code = 1006;
      reader.cancel().catch(() => {});
    }
  }
}

/**
 * What a promise gives, or undefined when that takes too long.
 * @template T
 * @param {Promise<T>} promise
 * @param {number} limitMs
 * @returns {Promise<T | undefined>}
 */
async function within(promise, limitMs) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const limit = new Promise((resolve) => {
    timer = setTimeout(resolve, limitMs, undefined);
  });
  try {
    return await Promise.race([promise, /** @type {Promise<undefined>} */ (limit)]);
  } finally {
    clearTimeout(timer);
  }
}
