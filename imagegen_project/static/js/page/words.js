/** Words that people read: marked for translation, and numbers in the forms that they are spoken in. */

/**
 * The text in the page's language, where there is a catalogue.
 * @param {string} text
 * @param {Record<string, string | number>} [values] what stands in place of `{name}`
 */
export function gettext(text, values = {}) {
  const translated = /** @type {any} */ (globalThis).django?.gettext?.(text) ?? text;
  return translated.replace(/\{(\w+)\}/g, (/** @type {string} */ whole, /** @type {string} */ name) => values[name] ?? whole);
}

const language = () => document.documentElement.lang || "en";

/** @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole <= 90) return gettext("{n} s", { n: whole });
  if (whole < 5400) return gettext("{n} min", { n: Math.round(whole / 60) });
  return gettext("{n} h", { n: Math.round(whole / 3600) });
}

/** @param {number} bytes */
export function size(bytes) {
  const unit = bytes >= 1e9 ? ["GB", 1e9] : bytes >= 1e6 ? ["MB", 1e6] : ["kB", 1e3];
  const value = bytes / Number(unit[1]);
  return `${value.toLocaleString(language(), { maximumFractionDigits: value < 10 ? 1 : 0 })} ${unit[0]}`;
}

/** @param {number} n */
export function ordinal(n) {
  const rule = new Intl.PluralRules("en", { type: "ordinal" }).select(n);
  return `${n}${{ one: "st", two: "nd", few: "rd" }[/** @type {"one"} */ (rule)] ?? "th"}`;
}

/** @param {string | null | undefined} iso */
export function when(iso) {
  if (!iso) return "";
  return new Date(iso).toLocaleString(language(), { dateStyle: "medium", timeStyle: "short" });
}

/** @param {number} n */
export function number(n) {
  return n.toLocaleString(language(), { maximumFractionDigits: 2 });
}
