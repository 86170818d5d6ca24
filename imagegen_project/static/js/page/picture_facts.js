/** What a picture was made of, in words; for developers the same as code, and all of it as a receipt. */
import { SNIPPETS, snippet } from "./snippets.js";
import { copy, html, Icon, useApp, useEffect, useState, useStore } from "./ui.js";
import { duration, gettext, when } from "./words.js";

/** @param {{row: any, image: any}} props */
export function Facts({ row, image }) {
  const { notify } = useApp();
  const models = useStore((state) => state.models);
  const model = models.find((one) => one.id === row.model)?.name ?? row.model;
  const words = [
    model,
    image && `${image.width} × ${image.height}`,
    gettext("{n} steps", { n: row.num_inference_steps }),
    gettext("guidance {n}", { n: row.guidance_scale }),
    row.scheduler || gettext("the model's own scheduler"),
    image && gettext("seed {n}", { n: image.seed }),
    row.strength !== null && gettext("strength {n}", { n: row.strength }),
    ...row.loras.map((/** @type {any} */ one) => `${one.name} ${one.scale}`),
  ].filter(Boolean);
  return html`<div class="facts">
    <p class="prompt-text">${row.prompt}
      <button class="quiet only-icon" aria-label=${gettext("Copy the prompt")} onClick=${() => copy(row.prompt).then(() => notify(gettext("Copied.")))}><${Icon} name="copy" /></button>
    </p>
    ${row.negative_prompt && html`<p class="hint">${gettext("Not: {words}", { words: row.negative_prompt })}</p>`}
    <ul class="settings">${words.map((word) => html`<li key=${word}>${word}</li>`)}</ul>
    <p class="hint">${when(row.created_at)}${row.latency_ms ? gettext(", drawn in {time}", { time: duration(row.latency_ms / 1000) }) : ""}</p>
    ${row.warnings.length > 0 && html`<ul class="warnings">${row.warnings.map((/** @type {any} */ one, /** @type {number} */ n) => html`<li key=${n}>${one.reason}</li>`)}</ul>`}
    <${Code} row=${row} />
    <${Timeline} row=${row} />
    <${Receipt} row=${row} />
  </div>`;
}

/** @param {{row: any}} props */
function Code({ row }) {
  const { notify } = useApp();
  const [kind, setKind] = useState("curl");
  const text = snippet(kind, row, location.origin);
  return html`<details class="code">
    <summary>${gettext("As code")}</summary>
    <div role="group" class="tabs">
      ${Object.entries(SNIPPETS).map(([name, { label }]) => html`<button key=${name} class=${name === kind ? "tab on" : "tab"} aria-pressed=${name === kind ? "true" : "false"} onClick=${() => setKind(name)}>${label}</button>`)}
    </div>
    <pre tabindex="0"><code>${text}</code></pre>
    <button class="quiet" onClick=${() => copy(text).then(() => notify(gettext("Copied.")))}><${Icon} name="copy" />${gettext("Copy")}</button>
    <p class="hint">${gettext("IMAGEGEN_TOKEN holds one of your tokens: make one on the account page.")}</p>
  </details>`;
}

/** The job's events as they were sent. @param {{row: any}} props */
function Timeline({ row }) {
  const { client } = useApp();
  const [events, setEvents] = useState(/** @type {any[] | null} */ (null));
  const [open, setOpen] = useState(false);
  useEffect(() => {
    if (!open || events) return;
    const stop = new AbortController();
    (async () => {
      const found = [];
      for await (const event of client.follow(row.id, { after: 0, signal: stop.signal })) found.push(event);
      setEvents(found);
    })().catch(() => {});
    return () => stop.abort();
  }, [open]);
  const begin = Date.parse(row.created_at);
  const told = (/** @type {any} */ event) =>
    ({ queued: event.reason ? gettext("back in the queue: {why}", { why: event.reason }) : gettext("queued"), downloading: gettext("fetching the model"), started: gettext("started on {worker}", { worker: event.worker }), warning: event.warnings?.[0]?.reason, snapshot: event.status, succeeded: gettext("done"), failed: event.error?.detail, canceled: gettext("canceled"), progress: gettext("step {n} of {total}", { n: event.step, total: event.total_steps }) })[/** @type {string} */ (event.type)] ?? event.phase ?? event.type;
  const kept = (events ?? []).filter((event, n, all) => event.type !== "progress" || all[n - 1]?.type !== "progress" || all[n + 1]?.type !== "progress");
  return html`<details onToggle=${(/** @type {any} */ event) => setOpen(event.target.open)}>
    <summary>${gettext("Timeline")}</summary>
    ${events
      ? html`<ol class="timeline">${kept.map((event) => html`<li key=${event.seq}><time>+${((Date.parse(event.at) - begin) / 1000).toFixed(1)} s</time> ${told(event)}</li>`)}</ol>`
      : html`<span class="spinner"></span>`}
  </details>`;
}

/** @param {{row: any}} props */
function Receipt({ row }) {
  const { client } = useApp();
  const [receipt, setReceipt] = useState("");
  const load = (/** @type {any} */ event) => {
    if (!event.target.open || receipt) return;
    client.json(`/api/v1/generations/${row.id}/receipt`).then(
      (/** @type {any} */ found) => setReceipt(JSON.stringify(found, null, 2)),
      (/** @type {any} */ error) => setReceipt(error.message),
    );
  };
  return html`<details onToggle=${load}><summary>${gettext("Receipt")}</summary><pre tabindex="0"><code>${receipt}</code></pre></details>`;
}
