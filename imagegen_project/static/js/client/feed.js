/**
 * What the feed of a generation tells.
 *
 * @typedef {{index: number, seed: number, width: number, height: number, sha256: string, url: string,
 *   b64_json?: string}} Picture
 * @typedef {{param: string, reason: string, used: unknown}} Warning
 * @typedef {{type: string, seq: number, prev: number, job_id: string, at: string, attempt: number, step?: number,
 *   total_steps?: number, percent?: number, eta_s?: number | null, preview?: string | null, seed?: number,
 *   status?: string, phase?: string, reason?: string, worker?: string, model?: string, downloaded_bytes?: number,
 *   total_bytes?: number, images?: Picture[], error?: {code: string, detail: string},
 *   warnings?: Warning[]}} GenerationEvent
 */

/** The types of last events, which are also the statuses of a generation that has ended. */
export const ENDS = new Set(["succeeded", "failed", "canceled"]);
