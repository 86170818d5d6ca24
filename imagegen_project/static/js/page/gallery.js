/** The gallery: endless, searched, and acted on by many at once. */
import { isPlain } from "./router.js";
import { html, Icon, thumbnail, useApp, useEffect, useRef, useState, useStore } from "./ui.js";
import { gettext } from "./words.js";

const PAUSE_MS = 250;
// How far below the window the end is when the next page is asked for.
const AHEAD = "1600px";

/** @param {{row: any, selected: boolean, selecting: boolean}} props */
function Tile({ row, selected, selecting }) {
  const { gallery, go, bad } = useApp();
  const open = (/** @type {any} */ event) => {
    const select = event.shiftKey || selecting;
    if (!select && !isPlain(event)) return;
    event.preventDefault();
    if (select) gallery.select(row.id, event.shiftKey);
    else go(`/gallery/${row.id}/`);
  };
  return html`<li class=${selected ? "tile selected" : "tile"}>
    <a href=${`/gallery/${row.id}/`} onClick=${open} title=${row.prompt}>
      <img src=${thumbnail(row.images[0].url, 256)} alt=${row.prompt} loading="lazy" decoding="async" width="256" height="256" />
      ${row.images.length > 1 && html`<span class="badge">${row.images.length}</span>`}
    </a>
    <label class="pick"><input type="checkbox" checked=${selected} aria-label=${gettext("Select {prompt}", { prompt: row.prompt })}
      onClick=${(/** @type {any} */ event) => gallery.select(row.id, event.shiftKey)} /></label>
    ${row.favorite !== undefined &&
    html`<button class=${row.favorite ? "heart on" : "heart"} aria-pressed=${row.favorite ? "true" : "false"} aria-label=${gettext("Favourite")}
      onClick=${() => gallery.mark(row.id, !row.favorite).catch(bad)}><${Icon} name="heart" /></button>`}
  </li>`;
}

function Actions() {
  const { store, gallery, client, bad } = useApp();
  const { selected, rows } = useStore((state) => state.gallery);
  const [asking, setAsking] = useState(false);
  const [busy, setBusy] = useState("");
  if (!selected.length) return null;
  const chosen = rows.filter((row) => selected.includes(row.id));
  const zip = async () => {
    setBusy(gettext("Packing"));
    try {
      const { saveZip } = await import("../late/zip.js");
      await saveZip(client, chosen);
    } catch (/** @type {any} */ error) {
      bad(error);
    }
    setBusy("");
  };
  const remove = async () => {
    setAsking(false);
    try {
      await gallery.remove(selected);
    } catch (/** @type {any} */ error) {
      bad(error);
    }
  };
  return html`<div class="selection" role="toolbar" aria-label=${gettext("Selected pictures")}>
    <strong>${gettext("{n} selected", { n: selected.length })}</strong>
    ${asking
      ? html`<span>${gettext("Delete for good?")}</span>
          <button class="danger" onClick=${remove}>${gettext("Delete {n}", { n: selected.length })}</button>
          <button class="quiet" onClick=${() => setAsking(false)}>${gettext("Keep")}</button>`
      : html`<button class="quiet" onClick=${zip} aria-busy=${busy ? "true" : null}><${Icon} name="download" />${busy || gettext("Download as ZIP")}</button>
          <button class="quiet" onClick=${() => setAsking(true)}><${Icon} name="trash-2" />${gettext("Delete")}</button>
          <button class="quiet" onClick=${() => store.setGallery({ selected: [], anchor: null })}><${Icon} name="x" />${gettext("None")}</button>`}
  </div>`;
}

export function Gallery() {
  const { store, gallery } = useApp();
  const { rows, loading, next, q, favorite, selected, trouble, started } = useStore((state) => state.gallery);
  const end = useRef(/** @type {HTMLElement | null} */ (null));
  const timer = useRef(0);
  useEffect(() => {
    gallery.start();
  }, []);
  useEffect(() => {
    // The last entry says how it is now: a busy browser hands over several.
    const watch = new IntersectionObserver((entries) => entries.at(-1)?.isIntersecting && gallery.more(), { rootMargin: AHEAD });
    if (end.current) watch.observe(end.current);
    return () => watch.disconnect();
  }, [next]);
  const search = (/** @type {any} */ event) => {
    store.setGallery({ q: event.target.value });
    clearTimeout(timer.current);
    timer.current = setTimeout(() => gallery.search({}), PAUSE_MS);
  };
  const empty = started && !loading && !rows.length && !trouble;
  return html`<section class=${selected.length ? "gallery selecting" : "gallery"}>
    <div class="tools">
      <h1>${gettext("Gallery")}</h1>
      <input id="search" type="search" placeholder=${gettext("Search prompts")} aria-label=${gettext("Search prompts")} value=${q} onInput=${search} />
      <button class=${favorite ? "toggle on" : "toggle"} aria-pressed=${favorite ? "true" : "false"} onClick=${() => gallery.search({ favorite: !favorite })}>
        <${Icon} name="heart" />${gettext("Favourites")}</button>
    </div>
    <${Actions} />
    ${trouble && html`<p class="note bad" role="alert">${trouble} <button class="quiet" onClick=${() => gallery.search({})}>${gettext("Try again")}</button></p>`}
    ${empty && html`<p class="lead">${q || favorite ? gettext("Nothing fits.") : gettext("No pictures yet. The first one is one sentence away.")}</p>`}
    <ul class="tiles">
      ${rows.map((row) => html`<${Tile} key=${row.id} row=${row} selected=${selected.includes(row.id)} selecting=${selected.length > 0} />`)}
    </ul>
    <div ref=${end} class="end" aria-hidden="true">${loading && html`<span class="spinner"></span>`}</div>
  </section>`;
}
