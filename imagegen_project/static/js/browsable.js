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

/** Sends the form; throws what to say where no page answers. @param {HTMLFormElement} form */
async function send(form) {
  const answer = await fetch(form.action || location.href, requestOf(form));
  const kind = answer.headers.get("Content-Type") ?? "";
  const text = await answer.text();
  // What is refused before the API sees it, such as a body that is too large, is no page.
  if (!kind.startsWith("text/html")) throw new Error(kind.includes("json") ? JSON.parse(text).detail : text);
  const page = new DOMParser().parseFromString(text, "text/html");
  document.title = page.title;
  document.body.replaceChildren(...page.body.children);
  document.querySelector("h1")?.scrollIntoView();
}

/** Says in the form why nothing came of it. @param {HTMLFormElement} form @param {string} words */
function complain(form, words) {
  form.removeAttribute("aria-busy");
  const note = form.querySelector("[role=alert]") ?? form.appendChild(document.createElement("p"));
  note.className = "note bad";
  note.setAttribute("role", "alert");
  note.textContent = words;
}

document.addEventListener("submit", (event) => {
  const form = /** @type {HTMLFormElement} */ (event.target);
  if (!form.dataset.method) return;
  event.preventDefault();
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
  form.setAttribute("aria-busy", "true");
  send(form).catch((error) => complain(form, error.message));
});
