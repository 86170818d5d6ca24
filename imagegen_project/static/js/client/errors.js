/** What goes wrong between a page and the service. */

/**
 * @typedef {{code: string, status: number, title?: string, detail?: string, job_id?: string | null,
 *   retry_after_s?: number | null, errors?: {param: string, code: string, detail: string}[]}} Problem
 */

const PASSING_STATUSES = new Set([429, 502, 503, 504]);

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
    this.retryAfterS = problem.retry_after_s ?? null;
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
