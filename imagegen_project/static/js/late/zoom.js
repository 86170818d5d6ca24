/** A generation's pictures over the whole window, with zoom and swipe. */
import PhotoSwipe from "../../vendor/photoswipe/photoswipe.js";
import { pathOf } from "../page/ui.js";
import { gettext } from "../page/words.js";
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
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const box = new PhotoSwipe({ dataSource, index, showHideAnimationType: still ? "none" : "zoom", bgOpacity: 0.92, secondaryZoomLevel: 2 });
  // While it opens, the library closes for nobody.
  const early = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape" && !box.opener.isOpen) box.on("openingAnimationEnd", () => box.close());
  };
  addEventListener("keydown", early);
  box.on("destroy", () => removeEventListener("keydown", early));
  box.init();
  box.element?.setAttribute("aria-label", gettext("Picture: {prompt}", { prompt: row.prompt }));
}
