/** One picture: large, with what it was made of and what can be made of it. */
import { ActionList } from "./picture_actions.js";
import { Facts } from "./picture_facts.js";
import { html, Icon, Link, pathOf, thumbnail, useApp, useEffect, useState, useStore } from "./ui.js";
import { gettext } from "./words.js";

/** @param {{id: string}} props */
export function PicturePage({ id }) {
  const { client, go, gallery, store } = useApp();
  const rows = useStore((state) => state.gallery.rows);
  const [row, setRow] = useState(/** @type {any} */ (null));
  const [index, setIndex] = useState(0);
  const [trouble, setTrouble] = useState("");
  useEffect(() => {
    let live = true;
    setIndex(Number(location.hash.slice(1)) || 0);
    setTrouble("");
    gallery.start();
    client.json(`/api/v1/generations/${id}`).then(
      (/** @type {any} */ found) => live && setRow(found),
      (/** @type {any} */ error) => live && setTrouble(error.message),
    );
    return () => {
      live = false;
    };
  }, [id]);
  const at = rows.findIndex((one) => one.id === id);
  const step = (/** @type {number} */ by) => {
    const other = at >= 0 ? rows[at + by] : undefined;
    if (other) go(`/gallery/${other.id}/`);
    if (at + by >= rows.length - 2) gallery.more();
  };
  useEffect(() => {
    const keys = (/** @type {KeyboardEvent} */ event) => {
      if (document.querySelector("dialog[open], .pswp") || /** @type {HTMLElement} */ (event.target).matches("input, textarea, select, img-comparison-slider")) return;
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
      if (event.key === "Escape") go("/gallery/");
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  });
  if (trouble) return html`<p class="note bad column" role="alert">${trouble}</p>`;
  if (!row) return html`<div class="picture" aria-busy="true"></div>`;
  const image = row.images[index] ?? row.images[0];
  const zoom = async () => {
    const { openLarge } = await import("../late/zoom.js");
    openLarge(row, index);
  };
  return html`<section class="picture">
    <div class="view">
      <nav class="around" aria-label=${gettext("Pictures")}>
        <${Link} to="/gallery/"><${Icon} name="images" />${gettext("Gallery")}<//>
        <span></span>
        <button class="quiet only-icon" disabled=${at <= 0} aria-label=${gettext("Newer")} onClick=${() => step(-1)}><${Icon} name="arrow-left" /></button>
        <button class="quiet only-icon" disabled=${at < 0 || at + 1 >= rows.length} aria-label=${gettext("Older")} onClick=${() => step(1)}><${Icon} name="arrow-right" /></button>
      </nav>
      ${image
        ? html`<button class="big" onClick=${zoom} aria-label=${gettext("Enlarge")} style=${{ "--ratio": image.width / image.height }}>
            <img src=${pathOf(image.url)} alt=${row.prompt} width=${image.width} height=${image.height} />
          </button>`
        : html`<p class="note">${row.error?.detail ?? gettext("There is no picture: {status}.", { status: row.status })}</p>`}
      ${row.images.length > 1 &&
      html`<ul class="batch-strip">
        ${row.images.map(
          (/** @type {any} */ one, /** @type {number} */ n) => html`<li key=${n}><button aria-current=${n === index ? "true" : null} aria-label=${gettext("Picture {n}", { n: n + 1 })} onClick=${() => setIndex(n)}>
            <img src=${thumbnail(one.url, 128)} alt="" /></button></li>`,
        )}
      </ul>`}
    </div>
    <div class="side">
      ${image && html`<${ActionList} row=${row} image=${image} removed=${() => {
        store.setGallery({ rows: rows.filter((one) => one.id !== id) });
        go("/gallery/");
      }} />`}
      <${Facts} row=${row} image=${image} />
    </div>
  </section>`;
}
