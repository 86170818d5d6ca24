/** Where pictures appear: what was asked for last is large, the rest beside it. */
import { drawsWhat, examplesFor } from "./examples.js";
import { isOver, told } from "./jobs.js";
import { chosenModel } from "./models.js";
import { ActionList } from "./picture_actions.js";
import { draw } from "./prompt_form.js";
import { html, Icon, Link, pathOf, thumbnail, useApp, useEffect, useState, useStore } from "./ui.js";
import { duration, gettext, ordinal, size } from "./words.js";

/** @typedef {import("./jobs.js").Job} Job */

const SPOKEN = { duration, size, ordinal };

/** What is large: the one that was picked, else the newest. @param {import("./store.js").State} state */
export function shownJob({ jobs, focus }) {
  return jobs.find((job) => job.id === focus) ?? jobs[0];
}

/** How many of so many pictures stand beside one another, as in their preview. @param {number} count */
const columnsFor = (count) => Math.ceil(Math.sqrt(count));

/** @param {{job: Job, large?: boolean}} props */
function Picture({ job, large }) {
  const { jobs } = useApp();
  const alt = job.prompt;
  if (job.images.length > 1) {
    return html`<div class="batch" style=${{ "--columns": columnsFor(job.count) }}>
      ${job.images.map((image) => {
        const picture = html`<img src=${large ? pathOf(image.url) : thumbnail(image.url, 256)} alt=${`${alt} (${image.index + 1})`} />`;
        return large ? html`<${Link} key=${image.index} to=${`/gallery/${job.id}/#${image.index}`}>${picture}<//>` : picture;
      })}
    </div>`;
  }
  if (job.images.length) {
    // The preview stays beneath until the picture has come.
    const src = large ? pathOf(job.images[0].url) : thumbnail(job.images[0].url, 256);
    const final = html`<img class="final" src=${src} alt=${alt} onLoad=${() => jobs.settle(job.id)} />`;
    return html`${job.preview && html`<img class="preview" src=${job.preview} alt="" />`}
      ${large ? html`<${Link} to=${`/gallery/${job.id}/`}>${final}<//>` : final}`;
  }
  if (job.preview) return html`<img class="preview" src=${job.preview} alt="" />`;
  return html`<div class="shimmer"></div>`;
}

/** @param {{job: Job}} props */
function LargeCard({ job }) {
  const app = useApp();
  const { jobs, bad } = app;
  const over = isOver(job);
  const words = told(job, SPOKEN);
  const cancel = () => jobs.cancel(job.id).catch(bad);
  const busy = job.phase === "decoding" || job.phase === "saving" || job.phase === "loading" || job.phase === "sending";
  const columns = columnsFor(job.count);
  const ratio = (columns * job.width) / (Math.ceil(job.count / columns) * job.height);
  return html`<article class=${`card large ${job.phase}`} aria-label=${job.prompt} style=${{ "--ratio": ratio }}>
    <div class="frame" style=${{ aspectRatio: String(ratio) }}>
      <${Picture} job=${job} large />
      ${job.phase === "failed" &&
      html`<div class="failure">
        <${Icon} name="triangle-alert" />
        <p>${job.error?.detail ?? ""}</p>
        <button class="secondary" onClick=${() => retry(app, job)}>${gettext("Try again")}</button>
      </div>`}
      ${job.phase === "canceled" && html`<div class="failure"><${Icon} name="ban" /><p>${gettext("Canceled")}</p>
        <button class="secondary" onClick=${() => retry(app, job)}>${gettext("Draw it after all")}</button></div>`}
    </div>
    ${over
      ? job.phase === "succeeded" &&
        html`<footer class="done">
          <p class="said" title=${job.prompt}>${job.prompt}</p>
          <${Next} id=${job.id} key=${job.id} />
        </footer>`
      : html`<footer>
          <div class="status">
            <p>${words}</p>
            <progress value=${busy ? null : job.percent} max="100" aria-label=${gettext("Progress")}></progress>
          </div>
          <button class="quiet only-icon" aria-label=${gettext("Cancel")} title=${gettext("Cancel (Esc)")} onClick=${cancel} disabled=${job.canceling}>
            <${Icon} name="x" /></button>
        </footer>`}
    ${job.warnings.length > 0 && html`<ul class="warnings">${job.warnings.map((one, index) => html`<li key=${index}>${one.reason}</li>`)}</ul>`}
  </article>`;
}

/** What most people do with a picture next. @param {{id: string}} props */
function Next({ id }) {
  const { client, bad } = useApp();
  const [row, setRow] = useState(/** @type {any} */ (null));
  useEffect(() => {
    client.json(`/api/v1/generations/${id}`).then(setRow, bad);
  }, [id]);
  return row?.images.length ? html`<${ActionList} row=${row} image=${row.images[0]} />` : null;
}

/** @param {import("./ui.js").App} app @param {Job} job */
function retry({ jobs, client, bad }, job) {
  jobs
    .make({ ...job, num_images: job.count }, (key) => client.json(`/api/v1/generations/${job.id}/retry`, { method: "POST", headers: { "Idempotency-Key": key } }))
    .catch(bad);
}

/** @param {{job: Job, shown: boolean}} props */
function SmallCard({ job, shown }) {
  const { store, jobs, bad } = useApp();
  const words = told(job, SPOKEN);
  return html`<li class=${`card small ${job.phase}`} aria-current=${shown ? "true" : null}>
    <button class="frame" onClick=${() => store.set({ focus: job.id })} aria-label=${`${job.prompt}: ${words}`}>
      <${Picture} job=${job} />
      ${job.phase === "failed" && html`<span class="failure"><${Icon} name="triangle-alert" /></span>`}
      ${job.phase === "canceled" && html`<span class="failure"><${Icon} name="ban" /></span>`}
      ${!isOver(job) && html`<span class="badge">${job.phase === "denoising" ? `${Math.round(job.percent)} %` : words.split(",")[0]}</span>`}
    </button>
    ${!isOver(job) &&
    html`<button class="quiet only-icon corner" aria-label=${gettext("Cancel {prompt}", { prompt: job.prompt })}
      onClick=${() => jobs.cancel(job.id).catch(bad)}><${Icon} name="x" /></button>`}
  </li>`;
}

function Examples() {
  const app = useApp();
  const { store } = app;
  const model = useStore(chosenModel);
  if (!model) return html`<div class="examples" aria-busy="true"></div>`;
  const begin = (/** @type {string} */ prompt) => {
    store.fill({ prompt, seed: null, images: [], mask: null });
    draw(app);
  };
  return html`<section class="examples">
    <h1>${gettext("What shall it be?")}</h1>
    <p class="lead">${gettext(drawsWhat(model.family))} ${gettext("Click one to draw it, or write your own.")}</p>
    <ul>
      ${examplesFor(model.family).map(
        ({ prompt, picture }) => html`<li key=${prompt}>
          <button class=${picture ? "example" : "example bare"} onClick=${() => begin(prompt)}>
            ${picture && html`<img src=${picture} alt="" width="256" height="256" />`}
            <span>${prompt}</span>
          </button>
        </li>`,
      )}
    </ul>
  </section>`;
}

function Latest() {
  const { gallery } = useApp();
  const rows = useStore((state) => state.gallery.rows);
  const jobs = useStore((state) => state.jobs);
  useEffect(() => {
    gallery.start();
  }, []);
  const shown = new Set(jobs.map((job) => job.id));
  const latest = rows.filter((row) => !shown.has(row.id)).slice(0, 8);
  if (!latest.length) return null;
  return html`<section class="latest" aria-label=${gettext("Your latest pictures")}>
    <h2>${gettext("Your latest pictures")}</h2>
    <ul class="tiles">
      ${latest.map(
        (row) => html`<li key=${row.id}><${Link} to=${`/gallery/${row.id}/`}>
          <img src=${thumbnail(row.images[0].url, 256)} alt=${row.prompt} loading="lazy" decoding="async" /><//></li>`,
      )}
    </ul>
  </section>`;
}

export function Stage() {
  const jobs = useStore((state) => state.jobs);
  const job = useStore(shownJob);
  return html`<div class="stage">
    ${job ? html`<${LargeCard} job=${job} key="large" />` : html`<${Examples} />`}
    ${jobs.length > 1 &&
    html`<ul class="strip" aria-label=${gettext("Drawings of this visit")}>
      ${jobs.map((one) => html`<${SmallCard} key=${one.id} job=${one} shown=${one === job} />`)}
    </ul>`}
    <${Latest} />
  </div>`;
}
