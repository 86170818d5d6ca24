/** @typedef {import("./feed.js").GenerationEvent} GenerationEvent */

// A connection that died unnoticed (a laptop that slept) is silent for ever; a new one costs little.
const SILENCE_MS = 60_000;

/** A WebSocket as its messages, until it closes; `opened` and `code` say how it went. */
export class Socket {
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
