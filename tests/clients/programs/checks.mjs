// What the drivers in JavaScript share: they run where only their client is installed.
import { readFile } from "node:fs/promises";

export const URL_ = process.env.URL;
export const TOKEN = process.env.TOKEN;

/** Runs functions, by what they show, and prints a line of JSON for each. */
export async function run(checks) {
  for (const [what, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(JSON.stringify({ what, ok: true }));
    } catch (error) {
      console.error(error);
      console.log(JSON.stringify({ what, ok: false, detail: String(error).slice(0, 300) }));
    }
  }
}

export function assert(condition, what = "it is not so") {
  if (!condition) throw new Error(what);
}

export function isPng(bytes) {
  return Buffer.from(bytes).subarray(0, 8).toString("latin1") === "\x89PNG\r\n\x1a\n";
}

export async function picture(name = "in.png") {
  return new File([await readFile(name)], name, { type: "image/png" });
}
