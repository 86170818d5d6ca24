/** One line about what runs, for everybody. */
import { isOver } from "./jobs.js";
import { html, Icon, useApp, useStore } from "./ui.js";
import { gettext } from "./words.js";

export function Running() {
  const { store } = useApp();
  const models = useStore((state) => state.models);
  const away = useStore((state) => state.away);
  const mine = useStore((state) => state.jobs.filter((job) => !isOver(job)).length);
  if (!models.length) return html`<footer class="running"></footer>`;
  const workers = new Set(models.flatMap((model) => model.workers.map((/** @type {any} */ one) => one.worker))).size;
  const loaded = models.filter((model) => model.workers.some((/** @type {any} */ one) => one.tier === "resident")).map((model) => model.name);
  const words = away
    ? [gettext("The service does not answer; trying again")]
    : [
        workers === 0 ? gettext("No worker runs: what you draw waits until one does") : workers === 1 ? gettext("1 worker") : gettext("{n} workers", { n: workers }),
        loaded.length ? gettext("{models} loaded", { models: loaded.join(", ") }) : gettext("no model loaded yet"),
        mine ? gettext("{n} of yours on their way", { n: mine }) : gettext("nothing of yours waits"),
      ];
  return html`<footer class="running">
    <p><span class=${`dot ${away || !workers ? "bad" : "good"}`}></span>${words.join(" · ")}</p>
    <button class="quiet" onClick=${() => store.set({ help: true })}><${Icon} name="keyboard" />${gettext("Keys")}</button>
  </footer>`;
}
