/** What can be made of a picture, in the order in which people want it. */
import { fileName } from "./files.js";
import { isOver } from "./jobs.js";
import { pictureKind } from "./models.js";
import { bare, formOf, givenTo, picturesOf, pictureUri, previewEvery, requestAgain } from "./request.js";
import { Paint } from "./paint.js";
import { fitting, withTriggers } from "./styles.js";
import { copy, Dialog, html, Icon, Link, pathOf, Range, useApp, useEffect, useState, useStore } from "./ui.js";
import { gettext } from "./words.js";

/** @typedef {import("./ui.js").App} App */

const VARIATIONS = 4;
const SEEDS = 2 ** 32;

/** @param {{row: any, image: any, removed?: () => void}} props without `removed`, only what most people do next */
export function ActionList({ row, image, removed }) {
  const app = useApp();
  const { store, client, jobs, gallery, bad, go } = app;
  const model = useStore((state) => state.models.find((one) => one.id === row.model));
  const [open, setOpen] = useState("");
  const [favorite, setFavorite] = useState(row.favorite);
  useEffect(() => setFavorite(row.favorite), [row]);
  const close = () => setOpen("");
  const guarded = (/** @type {() => Promise<any>} */ act) => () => act().catch(bad);
  const make = async (/** @type {any} */ request) => {
    close();
    go("/");
    await jobs.make(request);
  };
  const vary = guarded(async () => {
    const request = await requestAgain(client, row);
    await make({ ...request, seed: (row.seed + row.images.length) % SEEDS, num_images: VARIATIONS });
  });
  const change = guarded(async () => {
    store.fill({ ...formOf(row), ...(await picturesOf(client, row)), seed: image.seed, num_images: 1 });
    go("/");
  });
  const startFrom = guarded(async () => {
    const { prompt, model: id, loras } = formOf(row);
    store.fill({ prompt: edits ? "" : prompt, model: id, loras, seed: null, num_images: 1, strength: 0.6, mask: null, images: [await pictureUri(client, image.url)] });
    go("/");
  });
  const mark = guarded(async () => {
    setFavorite(!favorite);
    await gallery.mark(row.id, !favorite);
  });
  // A model that is gone has no actions of its own; the rest needs none.
  const edits = model && pictureKind(model) === "edit";
  // Of several, people first choose one.
  const all = Boolean(removed);
  const one = all || row.images.length === 1;
  /** @type {[string, string, () => void, boolean][]} */
  const actions = [
    ["shuffle", gettext("More like this"), vary, Boolean(model)],
    ["pencil", gettext("Change"), change, all],
    ["image", edits ? gettext("Edit this") : gettext("Start from this"), startFrom, all && Boolean(model && pictureKind(model))],
    ["brush", gettext("Repaint a part"), () => setOpen("paint"), one && Boolean(model?.kinds.includes("inpaint"))],
    ["palette", gettext("Style"), () => setOpen("style"), all && Boolean(model?.takes.loras)],
    ["repeat", gettext("Again exactly"), () => setOpen("again"), all && Boolean(model)],
    ["columns-2", gettext("Compare"), () => setOpen("compare"), all],
  ];
  return html`<div class="actions">
    <div class="main-actions">
      ${actions.map(([icon, label, act, can]) => can && html`<button key=${icon} class="action" onClick=${act}><${Icon} name=${icon} />${label}</button>`)}
      ${one && html`<a class="action" href=${pathOf(image.url)} download=${fileName(row, image)}><${Icon} name="download" />${gettext("Download")}</a>`}
      <button class="action" onClick=${() => setOpen("share")}><${Icon} name="share-2" />${gettext("Share")}</button>
      ${all
        ? html`<button class=${favorite ? "action on" : "action"} aria-pressed=${favorite ? "true" : "false"} onClick=${mark}><${Icon} name="heart" />${gettext("Favourite")}</button>
          <button class="action" onClick=${() => setOpen("delete")}><${Icon} name="trash-2" />${gettext("Delete")}</button>`
        : html`<${Link} class="action" to=${`/gallery/${row.id}/`}><${Icon} name="image" />${gettext("Open")}<//>`}
    </div>
    ${open === "paint" && html`<${Repaint} row=${row} image=${image} close=${close} make=${make} />`}
    ${open === "style" && html`<${StyleDialog} row=${row} image=${image} close=${close} make=${make} />`}
    ${open === "again" && html`<${Again} row=${row} close=${close} />`}
    ${open === "compare" && html`<${Compare} row=${row} image=${image} close=${close} />`}
    ${open === "share" && html`<${Share} row=${row} close=${close} />`}
    ${open === "delete" &&
    html`<${Dialog} title=${gettext("Delete this picture?")} close=${close}>
      <p>${gettext("It is gone for good, and so is every link to it.")}</p>
      <footer><button class="quiet" onClick=${close}>${gettext("Keep")}</button>
        <button class="danger" onClick=${guarded(async () => {
          await client.json(`/api/v1/generations/${row.id}`, { method: "DELETE" });
          jobs.forget(row.id);
          removed?.();
        })}>${gettext("Delete")}</button></footer>
    <//>`}
  </div>`;
}

/** @param {{row: any, image: any, close: () => void, make: (request: any) => Promise<void>}} props */
function Repaint({ row, image, close, make }) {
  const { client, bad } = useApp();
  const [picture, setPicture] = useState("");
  useEffect(() => {
    pictureUri(client, image.url).then(setPicture, bad);
  }, [image.url]);
  if (!picture) return null;
  const done = async (/** @type {string | null} */ mask, /** @type {string} */ prompt) => {
    if (!mask) return;
    try {
      await make({
        prompt,
        model: row.model,
        image: bare(picture),
        mask_image: bare(mask),
        loras: row.loras.map((/** @type {any} */ one) => ({ lora: one.lora, scale: one.scale })),
        preview_every: previewEvery(row.num_inference_steps),
      });
    } catch (/** @type {any} */ error) {
      bad(error);
    }
  };
  return html`<${Paint} picture=${picture} mask=${null} prompt=${row.prompt} close=${close} done=${done} />`;
}

/** @param {{row: any, image: any, close: () => void, make: (request: any) => Promise<void>}} props */
function StyleDialog({ row, image, close, make }) {
  const { client, bad } = useApp();
  const models = useStore((state) => state.models);
  const all = useStore((state) => state.loras);
  const family = models.find((one) => one.id === row.model)?.family;
  const loras = fitting(all, family);
  const [name, setName] = useState(loras[0]?.name ?? "");
  const [scale, setScale] = useState(1);
  const lora = loras.find((one) => one.name === name);
  const draw = async () => {
    try {
      const request = await requestAgain(client, row);
      const others = row.loras.filter((/** @type {any} */ one) => one.name !== name).map((/** @type {any} */ one) => ({ lora: one.lora, scale: one.scale }));
      await make({ ...request, seed: image.seed, num_images: 1, prompt: withTriggers(row.prompt, lora), loras: [...others, { lora: name, scale }] });
    } catch (/** @type {any} */ error) {
      bad(error);
    }
  };
  return html`<${Dialog} title=${gettext("The same picture in another style")} close=${close}>
    ${lora
      ? html`<label for="style-name">${gettext("Style (LoRA)")}</label>
          <select id="style-name" value=${name} onChange=${(/** @type {any} */ event) => setName(event.target.value)}>
            ${loras.map((one) => html`<option key=${one.name} value=${one.name} selected=${one.name === name}>${one.name}</option>`)}
          </select>
          <${Range} id="style-scale" label=${gettext("How strong")} value=${scale} shown=${scale.toFixed(2)} min=${0} max=${2} step=${0.05} change=${setScale} />
          ${lora.trigger_words.length > 0 && html`<p class="hint">${gettext("Adds to the prompt: {words}", { words: lora.trigger_words.join(", ") })}</p>`}
          <footer><button class="quiet" onClick=${close}>${gettext("Close")}</button><button onClick=${draw}><${Icon} name="sparkles" />${gettext("Draw")}</button></footer>`
      : html`<p>${gettext("No LoRA fits this model yet. Upload one by the API: POST /api/v1/loras/upload.")}</p>`}
  <//>`;
}

/** Replays it, waits, and says whether the pixels are the same. @param {{row: any, close: () => void}} props */
function Again({ row, close }) {
  const { client, jobs } = useApp();
  const [id, setId] = useState("");
  const [verdict, setVerdict] = useState(/** @type {string | null} */ (null));
  const job = useStore((state) => state.jobs.find((one) => one.id === id));
  useEffect(() => {
    const send = (/** @type {string} */ key) => client.json(`/api/v1/generations/${row.id}/replay`, { method: "POST", headers: { "Idempotency-Key": key } });
    jobs.make({ ...row }, send).then((made) => setId(made.id), (error) => setVerdict(error.message));
  }, []);
  useEffect(() => {
    if (!job || !isOver(job)) return;
    client.json(`/api/v1/generations/${id}`).then((/** @type {any} */ done) => {
      setVerdict(done.replay_verdict || (done.error?.detail ?? gettext("It was canceled.")));
    });
  }, [job?.phase]);
  const said = /** @type {Record<string, string>} */ ({
    exact: gettext("Identical: every pixel is the same."),
    close: gettext("As good as identical: it differs by less than one can see, as it does from one kind of machine to another."),
    different: gettext("Not identical: this machine draws it differently than the one that drew it first."),
  });
  return html`<${Dialog} title=${gettext("Again exactly")} close=${close}>
    <p>${gettext("The same request runs again by itself, from its receipt: seed, weights and settings.")}</p>
    ${verdict
      ? html`<p class=${verdict === "exact" || verdict === "close" ? "verdict good" : "verdict"} role="status"><${Icon} name=${verdict === "exact" ? "badge-check" : "info"} />${said[verdict] ?? verdict}</p>`
      : html`<progress value=${job?.phase === "denoising" ? job.percent : null} max="100" aria-label=${gettext("Progress")}></progress>`}
  <//>`;
}

/** @param {{row: any, image: any, close: () => void}} props */
function Compare({ row, image, close }) {
  const { client } = useApp();
  const rows = useStore((state) => state.gallery.rows);
  /** @type {{url: string, label: string}[]} */
  const others = [
    ...givenTo(row).map((url) => ({ url, label: gettext("what it started from") })),
    ...row.images.filter((/** @type {any} */ one) => one.index !== image.index).map((/** @type {any} */ one) => ({ url: one.url, label: gettext("picture {n}", { n: one.index + 1 }) })),
    ...rows.filter((one) => one.id !== row.id).slice(0, 30).map((one) => ({ url: one.images[0].url, label: one.prompt })),
  ];
  const [other, setOther] = useState(others[0]?.url ?? "");
  useEffect(() => {
    import("../late/compare.js").then(({ ready }) => ready());
  }, []);
  useEffect(() => {
    const earlier = row.replay_of ?? row.retry_of;
    if (earlier) client.json(`/api/v1/generations/${earlier}`).then((/** @type {any} */ one) => one.images[0] && setOther(one.images[0].url), () => {});
  }, []);
  return html`<${Dialog} title=${gettext("Compare")} close=${close} wide>
    ${other
      ? html`<img-comparison-slider tabindex="0" style=${{ "--ratio": image.width / image.height }}>
            <img slot="first" src=${pathOf(other)} alt=${gettext("The other picture")} />
            <img slot="second" src=${pathOf(image.url)} alt=${row.prompt} />
          </img-comparison-slider>
          <label for="compare-with">${gettext("With")}</label>
          <select id="compare-with" value=${other} onChange=${(/** @type {any} */ event) => setOther(event.target.value)}>
            ${others.map((one) => html`<option key=${one.url} value=${one.url} selected=${one.url === other}>${one.label}</option>`)}
          </select>`
      : html`<p>${gettext("There is no other picture yet.")}</p>`}
  <//>`;
}

/** @param {{row: any, close: () => void}} props */
function Share({ row, close }) {
  const { client, bad } = useApp();
  const address = `/api/v1/generations/${row.id}/shares/`;
  const [shares, setShares] = useState(/** @type {any[] | null} */ (null));
  const [withPrompt, setWithPrompt] = useState(false);
  const [copied, setCopied] = useState(false);
  const load = () => client.json(address).then((/** @type {any} */ found) => setShares(found.results ?? found), bad);
  useEffect(() => {
    load();
  }, []);
  const make = async () => {
    try {
      const made = await client.json(address, { method: "POST", body: { show_prompt: withPrompt } });
      await load();
      await copy(absolute(made.url)).then(() => setCopied(true), () => {});
    } catch (/** @type {any} */ error) {
      bad(error);
    }
  };
  const revoke = (/** @type {any} */ share) => client.json(`${address}${share.id}/`, { method: "DELETE" }).then(load, bad);
  const what = row.images.length > 1 ? gettext("all {n} pictures of this drawing", { n: row.images.length }) : gettext("the picture");
  return html`<${Dialog} title=${gettext("Share")} close=${close}>
    <p>${gettext("Whoever has the link sees {what}, without an account, until you revoke it.", { what })}</p>
    <label><input type="checkbox" role="switch" checked=${withPrompt} onChange=${() => setWithPrompt(!withPrompt)} />${gettext("Show the prompt too")}</label>
    <button onClick=${make}><${Icon} name="link" />${gettext("Make a link and copy it")}</button>
    <p class="hint" role="status">${copied && gettext("The link is on the clipboard: paste it into a message.")}</p>
    <ul class="shares">
      ${(shares ?? []).map((share) => html`<li key=${share.id}>
        <input readonly value=${absolute(share.url)} aria-label=${gettext("Link")} onFocus=${(/** @type {any} */ event) => event.target.select()} />
        <button class="quiet" onClick=${() => revoke(share)}>${gettext("Revoke")}</button>
      </li>`)}
    </ul>
  <//>`;
}

/** @param {string} url */
function absolute(url) {
  return new URL(url, location.origin).href;
}

