/** One's own tokens, what was used, and the secret of webhooks. */
import { copy, html, Icon, useApp, useEffect, useState } from "./ui.js";
import { duration, gettext, number, size, when } from "./words.js";

const DAYS = [7, 30, 90, 365];

/** @param {{text: string, label: string}} props something that is shown once */
function Once({ text, label }) {
  const { notify } = useApp();
  return html`<div class="once note" role="status">
    <p>${label}</p>
    <div class="with-button">
      <input readonly value=${text} aria-label=${label} onFocus=${(/** @type {any} */ event) => event.target.select()} />
      <button onClick=${() => copy(text).then(() => notify(gettext("Copied.")))}><${Icon} name="copy" />${gettext("Copy")}</button>
    </div>
  </div>`;
}

function Tokens() {
  const { client, bad } = useApp();
  const [tokens, setTokens] = useState(/** @type {any[] | null} */ (null));
  const [days, setDays] = useState(90);
  const [name, setName] = useState("");
  const [made, setMade] = useState("");
  const load = () => client.json("/api/v1/tokens/").then((/** @type {any} */ found) => setTokens(found.results ?? found), bad);
  useEffect(() => {
    load();
  }, []);
  const make = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      const answer = await client.json("/api/v1/tokens/", { method: "POST", body: { name, expires_in_days: days } });
      setMade(answer.value);
      setName("");
      await load();
    } catch (/** @type {any} */ error) {
      bad(error);
    }
  };
  const revoke = (/** @type {any} */ token) => client.json(`/api/v1/tokens/${token.id}/`, { method: "DELETE" }).then(load, bad);
  return html`<section>
    <h2>${gettext("Tokens")}</h2>
    <p class="hint">${gettext("Programs of yours draw with a token in their Authorization header.")}</p>
    <form class="row" onSubmit=${make}>
      <label>${gettext("What for")}<input maxlength="100" value=${name} onInput=${(/** @type {any} */ event) => setName(event.target.value)} /></label>
      <label>${gettext("Valid for")}<select value=${days} onChange=${(/** @type {any} */ event) => setDays(Number(event.target.value))}>
        ${DAYS.map((one) => html`<option key=${one} value=${one} selected=${one === days}>${gettext("{n} days", { n: one })}</option>`)}</select></label>
      <button><${Icon} name="plus" />${gettext("New token")}</button>
    </form>
    ${made && html`<${Once} text=${made} label=${gettext("Your new token, shown this once:")} />`}
    ${tokens && !tokens.length && html`<p>${gettext("You have none.")}</p>`}
    <ul class="table">
      ${(tokens ?? []).map((token) => html`<li key=${token.id}>
        <${Icon} name="key-round" />
        <span><strong>${token.name || gettext("without a name")}</strong><small>${[
          gettext("made {when}", { when: when(token.created_at) }),
          token.expires_at ? gettext("until {when}", { when: when(token.expires_at) }) : gettext("without end"),
          token.last_used_at ? gettext("last used {when}", { when: when(token.last_used_at) }) : gettext("not used yet"),
        ].join(" · ")}</small></span>
        <button class="quiet" onClick=${() => revoke(token)}>${gettext("Revoke")}</button>
      </li>`)}
    </ul>
  </section>`;
}

function Secret() {
  const { client, bad } = useApp();
  const [secret, setSecret] = useState("");
  const make = () => client.json("/api/v1/webhook-secret", { method: "POST" }).then((/** @type {any} */ found) => setSecret(found.secret), bad);
  return html`<section>
    <h2>${gettext("Webhooks")}</h2>
    <p class="hint">${gettext("What is posted to your webhook_url is signed with this secret. A new one ends the old one at once.")}</p>
    ${secret ? html`<${Once} text=${secret} label=${gettext("Your new secret, shown this once:")} />` : html`<button class="secondary" onClick=${make}>${gettext("New signing secret")}</button>`}
  </section>`;
}

/** Where the bar leads on a wide screen, and has no room for on a phone. */
function Elsewhere() {
  const { isStaff } = useApp();
  return html`<nav class="elsewhere" aria-label=${gettext("More pages")}>
    <a href="/api/docs/">${gettext("API")}</a>
    ${isStaff && html`<a href="/admin/">${gettext("Admin")}</a>`}
  </nav>`;
}

export function Account() {
  const { user } = useApp();
  return html`<div class="column account">
    <h1>${user}</h1>
    <${Elsewhere} />
    <${Usage} />
    <${Tokens} />
    <${Secret} />
  </div>`;
}

/** @param {{label: string, used: number, limit: number | null, words: (n: number) => string}} props */
function Quota({ label, used, limit, words }) {
  if (!limit) return null;
  return html`<div class="quota">
    <p><span>${label}</span><span>${gettext("{used} of {limit}", { used: words(used), limit: words(limit) })}</span></p>
    <progress value=${used} max=${limit} aria-label=${label}></progress>
  </div>`;
}

function Usage() {
  const { client, bad } = useApp();
  const [usage, setUsage] = useState(/** @type {any} */ (null));
  useEffect(() => {
    client.json("/api/v1/usage").then(setUsage, bad);
  }, []);
  if (!usage) return html`<section aria-busy="true"></section>`;
  const { work, storage, queued } = usage.quota;
  const sum = (/** @type {string} */ name) => usage.days.reduce((/** @type {number} */ all, /** @type {any} */ day) => all + day[name], 0);
  return html`<section>
    <h2>${gettext("Usage")}</h2>
    <p>${gettext("{pictures} pictures in {jobs} jobs within 30 days, {bytes}.", { pictures: number(sum("pictures")), jobs: number(sum("jobs")), bytes: size(sum("bytes")) })}</p>
    <${Quota} label=${gettext("Space for pictures")} used=${storage.used} limit=${storage.limit} words=${size} />
    <${Quota} label=${gettext("Work within {time} (megapixels × steps)", { time: duration(work.window_s) })} used=${work.used} limit=${work.limit} words=${number} />
    <${Quota} label=${gettext("Waiting in the queue")} used=${queued.used} limit=${queued.limit} words=${number} />
  </section>`;
}
