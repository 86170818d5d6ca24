/** What a picture's file is called. */

const LONGEST = 60;

/**
 * A name out of the prompt, the seed, and the end of the id.
 * @param {any} row
 * @param {any} image
 */
export function fileName(row, image) {
  const words = row.prompt.toLowerCase().normalize("NFKD").replace(/[^\p{Letter}\p{Number}]+/gu, "-").replace(/^-+|-+$/g, "");
  const type = (image.content_type ?? "image/png").split("/")[1];
  return `${words.slice(0, LONGEST) || "picture"}-${image.seed}-${row.id.slice(-6)}.${type === "jpeg" ? "jpg" : type}`;
}
