// Lists and pages of rows that change by themselves: what they show is fetched anew while nobody is choosing or typing.

const EVERY_MS = 3000;
const PARTS = ["#result_list tbody", ".paginator", "fieldset .readonly"];

/** Whether someone is in the middle of something that a new table would undo. */
const busy = () =>
  document.hidden || Boolean(document.querySelector("input.action-select:checked, #changelist-search input:focus"));

async function renew() {
  if (busy()) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (busy()) return;
  for (const part of PARTS) {
    const now = [...page.querySelectorAll(part)];
    document.querySelectorAll(part).forEach((old, place) => {
      const fresh = now[place];
      if (fresh && old.innerHTML !== fresh.innerHTML) old.replaceChildren(...fresh.childNodes);
    });
  }
}

setInterval(() => void renew().catch(() => undefined), EVERY_MS);
