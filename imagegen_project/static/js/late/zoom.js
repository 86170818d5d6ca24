/** A generation's pictures over the whole window, with zoom and swipe. */
import PhotoSwipe from "../../vendor/photoswipe/photoswipe.js";
import { pathOf } from "../page/ui.js";
import { addStyle } from "./style.js";

/**
 * @param {any} row
 * @param {number} index
 */
export async function openLarge(row, index) {
  await addStyle("/static/vendor/photoswipe/photoswipe.css");
  const dataSource = row.images.map((/** @type {any} */ image) => ({
    src: pathOf(image.url),
    width: image.width,
    height: image.height,
    alt: row.prompt,
  }));
  const quick = matchMedia("(prefers-reduced-motion: reduce)").matches;
  new PhotoSwipe({ dataSource, index, showHideAnimationType: quick ? "none" : "zoom", bgOpacity: 0.92, secondaryZoomLevel: 2 }).init();
}
