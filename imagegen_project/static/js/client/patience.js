const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 15_000;
const MAX_FAILURES = 12;

/**
 * Waits; throws as soon as the signal does.
 * @param {number} ms
 * @param {AbortSignal | undefined} signal
 */
export async function pause(ms, signal) {
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
  });
  signal?.throwIfAborted();
}

/** Pauses after failures in a row: each about twice as long as the one before, and no two clients' alike. */
export class Patience {
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
    await pause(longest * (0.5 + Math.random() / 2), this.#signal);
  }
}
