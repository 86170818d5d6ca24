/** A mask as the strokes that made it, so that each can be taken back. */

/**
 * @typedef {{kind: "stroke", erasing: boolean, width: number, points: [number, number][]} |
 *   {kind: "invert"} | {kind: "place", column: number, row: number} | {kind: "bitmap", bitmap: ImageBitmap}} Mark
 */

// Shown over the picture; the mask itself is white on black.
const PAINT = "#e64980";
const PARTS = 3;

export class Canvas {
  #canvas;
  #context;
  #onChange;
  /** @type {Mark[]} */
  #marks = [];
  #size = 0.1;
  #erasing = false;
  #stopped = new AbortController();

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} width pixels of the picture
   * @param {number} height
   * @param {(count: number) => void} onChange is told how many marks there are
   */
  constructor(canvas, width, height, onChange) {
    this.#canvas = canvas;
    canvas.width = width;
    canvas.height = height;
    this.#context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.#onChange = onChange;
    const { signal } = this.#stopped;
    canvas.addEventListener("pointerdown", (event) => this.#down(event), { signal });
    canvas.addEventListener("pointermove", (event) => this.#move(event), { signal });
  }

  stop() {
    this.#stopped.abort();
  }

  /** @param {{size: number, erasing: boolean}} brush `size`: part of the picture's shorter side */
  use({ size, erasing }) {
    this.#size = size;
    this.#erasing = erasing;
  }

  undo() {
    this.#marks.pop();
    this.#redraw();
  }

  invert() {
    this.#add({ kind: "invert" });
  }

  /** A ninth of the picture. @param {number} column @param {number} row */
  place(column, row) {
    this.#add({ kind: "place", column, row });
  }

  /** Goes on from a mask. @param {string} uri white on black */
  async load(uri) {
    const image = new Image();
    image.src = uri;
    await image.decode();
    const { width, height } = this.#canvas;
    const sheet = new OffscreenCanvas(width, height);
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (sheet.getContext("2d"));
    context.drawImage(image, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height);
    for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = pixels.data[at] >= 128 ? 255 : 0;
    context.putImageData(pixels, 0, 0);
    this.#add({ kind: "bitmap", bitmap: await createImageBitmap(sheet) });
  }

  /** White where it is painted, black elsewhere, as a data URI; null where nothing is. @returns {string | null} */
  mask() {
    const { width, height } = this.#canvas;
    const painted = this.#context.getImageData(0, 0, width, height);
    let any = false;
    for (let at = 0; at < painted.data.length; at += 4) {
      const value = painted.data[at + 3] >= 128 ? 255 : 0;
      any ||= value > 0;
      painted.data.fill(value, at, at + 3);
      painted.data[at + 3] = 255;
    }
    if (!any) return null;
    const sheet = document.createElement("canvas");
    sheet.width = width;
    sheet.height = height;
    sheet.getContext("2d")?.putImageData(painted, 0, 0);
    return sheet.toDataURL("image/png");
  }

  /** @param {Mark} mark */
  #add(mark) {
    this.#marks.push(mark);
    this.#redraw();
  }

  #redraw() {
    this.#context.globalCompositeOperation = "source-over";
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    for (const mark of this.#marks) this.#draw(mark);
    this.#onChange(this.#marks.length);
  }

  /** @param {Mark} mark */
  #draw(mark) {
    const { width, height } = this.#canvas;
    const context = this.#context;
    context.fillStyle = context.strokeStyle = PAINT;
    context.globalCompositeOperation = "source-over";
    if (mark.kind === "invert") {
      context.globalCompositeOperation = "xor";
      context.fillRect(0, 0, width, height);
    } else if (mark.kind === "place") {
      context.fillRect((mark.column * width) / PARTS, (mark.row * height) / PARTS, width / PARTS, height / PARTS);
    } else if (mark.kind === "bitmap") {
      context.drawImage(mark.bitmap, 0, 0);
      context.globalCompositeOperation = "source-in";
      context.fillRect(0, 0, width, height);
    } else {
      this.#stroke(mark);
    }
  }

  /** @param {Extract<Mark, {kind: "stroke"}>} mark */
  #stroke({ erasing, width, points }) {
    const context = this.#context;
    context.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    context.lineWidth = width;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    // A tap is one point, and browsers need not draw a line without a length.
    context.arc(...points[0], width / 2, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button) return;
    event.preventDefault();
    const width = Math.max(2, this.#size * Math.min(this.#canvas.width, this.#canvas.height));
    this.#add({ kind: "stroke", erasing: this.#erasing, width, points: [this.#at(event)] });
    this.#canvas.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const mark = this.#marks.at(-1);
    if (!this.#canvas.hasPointerCapture(event.pointerId) || mark?.kind !== "stroke") return;
    mark.points.push(this.#at(event));
    this.#context.fillStyle = this.#context.strokeStyle = PAINT;
    this.#stroke(mark);
  }

  /** @param {PointerEvent} event @returns {[number, number]} */
  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = this.#canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }
}
