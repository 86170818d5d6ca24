/** The program of the product's own pages: what there is, put together. */
import { h, render } from "../../vendor/htm/preact.js";
import { tinykeys } from "../../vendor/tinykeys/tinykeys.js";
import { Client } from "../client/client.js";
import { Account } from "./account.js";
import { DropArea } from "./drop.js";
import { Gallery } from "./gallery.js";
import { GalleryRows } from "./gallery_rows.js";
import { Help } from "./help.js";
import { isOver, Jobs, told } from "./jobs.js";
import { PicturePage } from "./picture.js";
import { PromptForm } from "./prompt_form.js";
import { startRouter, titleOf } from "./router.js";
import { Running } from "./running.js";
import { shownJob, Stage } from "./stage.js";
import { emptyForm, keepForm, keptForm, Store } from "./store.js";
import { AppContext, html, Icon, useApp, useEffect, useRef, useStore } from "./ui.js";
import { duration, gettext, ordinal, size } from "./words.js";

const NOTICE_MS = 7_000;
const MODELS_PAUSE_MS = 20_000;
// While the workers start.
const WORKERS_PAUSE_MS = 3_000;

function Notices() {
  const { store } = useApp();
  const notices = useStore((state) => state.notices);
  const area = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    // Shown anew, it stands above a dialog that was opened after it.
    area.current?.hidePopover();
    if (notices.length) area.current?.showPopover();
  }, [notices]);
  const drop = (/** @type {string} */ id) => store.set((state) => ({ notices: state.notices.filter((one) => one.id !== id) }));
  return html`<div ref=${area} popover="manual" class="notices" role="status" aria-live="polite">
    ${notices.map(
      ({ id, text, kind, action }) => html`<div key=${id} class=${`notice ${kind}`}>
        <p>${text}</p>
        ${action && html`<button class="quiet" onClick=${() => { drop(id); action.run(); }}>${action.label}</button>`}
        <button class="quiet only-icon" aria-label=${gettext("Close")} onClick=${() => drop(id)}><${Icon} name="x" /></button>
      </div>`,
    )}
  </div>`;
}

function Page() {
  const route = useStore((state) => state.route);
  if (route.page === "gallery") return html`<${Gallery} />`;
  if (route.page === "picture") return html`<${PicturePage} id=${route.id} key=${route.id} />`;
  if (route.page === "account") return html`<${Account} />`;
  return html`<div class="create"><aside><${PromptForm} /></aside><${Stage} /></div>`;
}

function Program() {
  const said = useStore((state) => state.said);
  return html`<${Page} /><${Running} /><${Notices} /><${Help} /><${DropArea} />
    <p class="visually-hidden" aria-live="polite">${said}</p>`;
}

/** What the window's title and a screen reader say of what is being drawn. @param {Store} store */
function speak(store) {
  let last = "";
  store.listen(() => {
    const job = shownJob(store.state);
    const going = job && !isOver(job);
    const percent = going && job.phase === "denoising" ? `${Math.round(job.percent)} % · ` : "";
    const title = percent + titleOf(store.state.route);
    if (document.title !== title) document.title = title;
    if (!job) return;
    // Every quarter, not every step.
    const mark = `${job.id} ${job.phase} ${Math.floor(job.percent / 25)}`;
    if (mark === last) return;
    last = mark;
    const quarter = job.phase === "denoising" ? `${Math.round(job.percent)} %` : told(job, { duration, size, ordinal });
    store.set({ said: quarter });
  });
}

/** @param {HTMLElement} root */
function start(root) {
  const client = new Client();
  const store = new Store({
    models: [], loras: [], capabilities: null, form: { ...emptyForm(), ...keptForm() }, errors: {}, jobs: [], focus: null,
    gallery: { rows: [], next: null, loading: false, started: false, q: "", favorite: false, selected: [], anchor: null, trouble: "" },
    notices: [], route: { page: "create", id: null }, away: false, help: false, said: "",
  });
  const go = startRouter(store);
  const gallery = new GalleryRows(client, store);
  const jobs = new Jobs(client, store, (job) => {
    if (job.phase === "succeeded") gallery.add(job);
  });
  const say = (/** @type {Omit<import("./store.js").Notice, "id">} */ notice) => {
    const id = String(Math.random());
    store.set(({ notices }) => ({ notices: [...notices.slice(-2), { id, ...notice }] }));
    setTimeout(() => store.set(({ notices }) => ({ notices: notices.filter((one) => one.id !== id) })), notice.action ? 2 * NOTICE_MS : NOTICE_MS);
  };
  /** @type {import("./ui.js").App} */
  const app = {
    ...{ store, client, jobs, gallery, go, user: root.dataset.user ?? "", isStaff: "staff" in root.dataset },
    notify: (text, action) => say({ text, kind: "info", action }),
    bad: (error) => say({ text: error.message, kind: "bad" }),
  };

  let form = store.state.form;
  store.listen(() => {
    if (store.state.form === form) return;
    form = store.state.form;
    keepForm(form);
  });
  tinykeys(window, keysOf(app));
  speak(store);
  root.replaceChildren();
  render(h(AppContext.Provider, { value: app }, h(Program, null)), root);
  load(app);
}

/** @param {import("./ui.js").App} app @returns {Record<string, (event: KeyboardEvent) => void>} */
function keysOf({ store, jobs, go, bad }) {
  const idle = (/** @type {(event: KeyboardEvent) => void} */ act) => (/** @type {KeyboardEvent} */ event) => {
    const typing = /** @type {HTMLElement} */ (event.target).closest?.("input, textarea, select, dialog");
    if (!typing && !document.querySelector("dialog[open], .pswp")) act(event);
  };
  return {
    "/": idle((event) => {
      event.preventDefault();
      go("/");
      requestAnimationFrame(() => document.getElementById("prompt")?.focus());
    }),
    "Shift+?": idle(() => store.set({ help: true })),
    "?": idle(() => store.set({ help: true })),
    g: idle(() => go("/gallery/")),
    c: idle(() => go("/")),
    Escape: () => {
      const job = shownJob(store.state);
      if (store.state.route.page !== "create" || document.querySelector("dialog[open], .pswp") || !job || isOver(job)) return;
      jobs.cancel(job.id).catch(bad);
    },
  };
}

/** Asks for everything that the page shows. @param {import("./ui.js").App} app */
async function load({ store, client, jobs, bad }) {
  const models = () => client.json("/api/v1/models").then((/** @type {any} */ found) => store.set({ models: found.data, away: false }));
  const ask = async () => {
    try {
      await Promise.all([
        models(),
        client.json("/api/v1/capabilities").then((/** @type {any} */ capabilities) => store.set({ capabilities })),
        client.json("/api/v1/loras?limit=100").then((/** @type {any} */ found) => store.set({ loras: found.results })),
        jobs.find(),
      ]);
    } catch (/** @type {any} */ error) {
      if (error.status === 401 || error.status === 403) return location.reload();
      if (error.name === "ConnectionLostError") store.set({ away: true });
      else bad(error);
      setTimeout(ask, 3_000);
    }
  };
  await ask();
  const renew = () => models().catch((/** @type {any} */ error) => (error.status === 401 ? location.reload() : store.set({ away: true })));
  const later = () => {
    const working = store.state.models.some((model) => model.workers.length);
    setTimeout(async () => {
      if (document.visibilityState === "visible") await renew();
      later();
    }, working ? MODELS_PAUSE_MS : WORKERS_PAUSE_MS);
  };
  later();
}

const root = document.getElementById("app");
if (root) start(root);
