// The dashboard: asks for the numbers every few seconds and shows them. Every number leads to the list behind it.
/// <reference path="../../vendor/uplot/uPlot.d.ts" />
export {};

/**
 * @typedef {{ words: string, link: string }} Link
 * @typedef {{ name: string, label: string, value: number | null, words: string, link: string, bad: boolean }} Tile
 * @typedef {{ at: number[], succeeded: number[], failed: number[], p50: (number | null)[], p95: (number | null)[] }} Series
 * @typedef {{ name: string, link: string, state: string, heard: string, device: string, used_mb: number,
 *   total_mb: number, models: string[], jobs: Link[] }} WorkerRow
 * @typedef {{ at: string, window: string, tiles: Tile[], series: Series,
 *   failures: { code: string, number: number, link: string }[], workers: WorkerRow[],
 *   deaths: { worker: string, at: string, link: string }[],
 *   disk: { name: string, used_gb: number, total_gb: number }[],
 *   troubles: { what: string, remedy: string, link: string }[] }} Numbers
 */

const EVERY_MS = 5000;
const HEIGHT = 180;
const MIB_PER_GIB = 1024;
const root = /** @type {HTMLElement} */ (document.querySelector("#dashboard"));
// What a phone shows beside each cell, where a row is a card.
const headings = [...root.querySelectorAll(".scroll th")].map((one) => one.textContent ?? "");
/** @type {Map<string, uPlot>} */
const plots = new Map();
let period = "hour";

/**
 * @param {string} tag @param {Record<string, string>} attributes @param {...(Node | string)} inside
 * @returns {HTMLElement}
 */
function element(tag, attributes, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

/** @param {string} href @param {string} words */
const link = (href, words) => element("a", { href }, words);

/** @param {string} selector @param {Node[]} inside @param {string} none what to say where there is nothing */
function fill(selector, inside, none = "") {
  const place = /** @type {HTMLElement} */ (root.querySelector(selector));
  place.replaceChildren(...(inside.length || !none ? inside : [element("li", {}, none)]));
}

/** @param {number} used @param {number} most @param {string} words */
const bar = (used, most, words) =>
  element("span", {}, element("progress", { class: "bar", value: `${used}`, max: `${most || 1}`, "aria-label": words }), ` ${words}`);

/** @param {WorkerRow} worker */
function workerRow(worker) {
  const memory = `${(worker.used_mb / MIB_PER_GIB).toFixed(1)} of ${(worker.total_mb / MIB_PER_GIB).toFixed(1)} GiB`;
  const jobs = worker.jobs.flatMap((job) => [link(job.link, job.words), " "]);
  const cells = [
    link(worker.link, worker.name),
    element("span", { class: `state ${worker.state}` }, worker.state),
    `${worker.heard} ago`,
    worker.device,
    bar(worker.used_mb, worker.total_mb, memory),
    worker.models.join(", ") || "none",
    element("span", {}, ...(jobs.length ? jobs : ["none"])),
  ];
  return element("tr", { "data-worker": worker.name }, ...cells.map((cell, index) => element("td", { "data-heading": headings[index] }, cell)));
}

/** @type {uPlot.Options["scales"]["y"]["range"]} */
const fromZero = (_plot, _least, most) => [0, Math.max(1, most * 1.1)];

/** @param {string} id @param {(number | null)[][]} data @param {[string, string][]} lines label and colour variable */
function plot(id, data, lines) {
  const place = /** @type {HTMLElement} */ (document.getElementById(id));
  const shown = plots.get(id);
  if (shown) {
    shown.setData(data);
    return;
  }
  const colours = getComputedStyle(root);
  const ink = colours.getPropertyValue("--body-fg").trim();
  const line = colours.getPropertyValue("--hairline-color").trim();
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  /** @type {uPlot.Options} */
  const options = {
    width: place.clientWidth,
    height: HEIGHT,
    scales: { y: { range: fromZero } },
    axes: [axis, { ...axis, size: 45 }],
    series: [
      {},
      ...lines.map(([label, colour]) => ({
        label,
        stroke: colours.getPropertyValue(colour).trim(),
        width: 2,
        spanGaps: true,
        points: { show: false },
      })),
    ],
  };
  plots.set(id, new uPlot(options, data, place));
}

/** @param {Numbers} numbers */
function show(numbers) {
  const calm = element("li", { class: "calm" }, "Nothing is broken.");
  const troubles = numbers.troubles.map((one) =>
    element("li", {}, element("strong", {}, one.what), " ", link(one.link, one.remedy)),
  );
  fill(".troubles", troubles.length ? troubles : [calm]);
  fill(
    ".tiles",
    numbers.tiles.map((tile) =>
      element(
        "li",
        { "data-tile": tile.name, "data-value": `${tile.value}`, class: tile.bad ? "bad" : "" },
        element("a", { href: tile.link }, element("strong", {}, tile.words), element("span", {}, tile.label)),
      ),
    ),
  );
  fill("#workers", numbers.workers.map(workerRow));
  fill("#failures", numbers.failures.map((one) => element("li", {}, link(one.link, `${one.number} × ${one.code}`))), "none");
  fill("#deaths", numbers.deaths.map((one) => element("li", {}, link(one.link, `${one.worker}, ${one.at}`))), "none");
  fill(
    "#disk",
    numbers.disk.map((one) =>
      element("li", {}, `${one.name}: `, bar(one.used_gb, one.total_gb, `${one.used_gb} of ${one.total_gb} GB`)),
    ),
  );
  const { at, succeeded, failed, p50, p95 } = numbers.series;
  plot("ends", [at, succeeded, failed], [["succeeded", "--good"], ["failed", "--error-fg"]]);
  plot("latency", [at, p50, p95], [["median", "--link-fg"], ["95 %", "--warm"]]);
  root.setAttribute("aria-busy", "false");
}

async function renew() {
  const answer = await fetch(`${root.dataset.source}?window=${period}`, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const numbers = await answer.json();
  // Meanwhile another period may have been chosen.
  if (numbers.window === period) show(numbers);
}

const again = () => void renew().catch(() => undefined);
for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (root.querySelectorAll("[data-window]"))) {
  button.addEventListener("click", () => {
    period = button.dataset.window ?? "hour";
    root.querySelectorAll("[data-window]").forEach((one) => one.setAttribute("aria-pressed", `${one === button}`));
    again();
  });
}
window.addEventListener("resize", () => {
  for (const [id, shown] of plots) {
    shown.setSize({ width: /** @type {HTMLElement} */ (document.getElementById(id)).clientWidth, height: HEIGHT });
  }
});
setInterval(() => document.hidden || again(), EVERY_MS);
again();
