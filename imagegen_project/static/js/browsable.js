// The API's own pages: what a browser's form cannot do by itself (PATCH, DELETE, a body of JSON) is asked for here, and
// the page that answers takes this one's place.

/** @param {HTMLFormElement} form @returns {RequestInit} */
function requestOf(form) {
  const fields = new FormData(form);
  /** @type {Record<string, string>} */
  const headers = { Accept: "text/html", "X-CSRFToken": String(fields.get("csrfmiddlewaretoken")) };
  const method = form.dataset.method ?? "POST";
  if ("json" in form.dataset) {
    return { method, headers: { ...headers, "Content-Type": "application/json" }, body: String(fields.get("json")) };
  }
  return { method, headers, body: method === "DELETE" ? undefined : fields };
}

/** @param {HTMLFormElement} form */
async function send(form) {
  form.setAttribute("aria-busy", "true");
  const answer = await fetch(form.action || location.href, requestOf(form));
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.title = page.title;
  document.body.replaceChildren(...page.body.children);
  document.querySelector("h1")?.scrollIntoView();
}

document.addEventListener("submit", (event) => {
  const form = /** @type {HTMLFormElement} */ (event.target);
  if (!form.dataset.method) return;
  event.preventDefault();
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
  void send(form);
});
