/** The slider between two pictures: a custom element, there once this module has run. */
import "../../vendor/img-comparison-slider/slider.js";
import { addStyle } from "./style.js";

export function ready() {
  return addStyle("/static/vendor/img-comparison-slider/slider.css");
}
