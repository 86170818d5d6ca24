/** Which of the program's pages an address is. */
import { gettext } from "./words.js";

/** @typedef {import("./store.js").Route} Route */

/** @param {string} path @returns {Route} */
export function routeOf(path) {
  const picture = /^\/gallery\/([0-9a-f-]{36})\/$/.exec(path);
  if (picture) return { page: "picture", id: picture[1] };
  if (path.startsWith("/gallery/")) return { page: "gallery", id: null };
  if (path.startsWith("/account/")) return { page: "account", id: null };
  return { page: "create", id: null };
}

/** @param {Route} route */
export function titleOf({ page }) {
  const names = { create: gettext("Create"), gallery: gettext("Gallery"), picture: gettext("Picture"), account: gettext("Account") };
  return `${names[page]} · imagegen`;
}

/** Whether a click opens a link here: none that asks for another tab or window. @param {MouseEvent} event */
export function isPlain({ ctrlKey, metaKey, shiftKey, button }) {
  return !(ctrlKey || metaKey || shiftKey || button);
}

/**
 * Shows the page of the address, and follows clicks on the frame's links.
 * @param {import("./store.js").Store} store
 * @returns {(path: string) => void} goes to another page of the program
 */
export function startRouter(store) {
  const show = () => {
    const route = routeOf(location.pathname);
    store.set({ route });
    document.title = titleOf(route);
    const current = route.page === "picture" ? "gallery" : route.page;
    for (const link of document.querySelectorAll(".bar nav a")) {
      if (routeOf(new URL(/** @type {HTMLAnchorElement} */ (link).href).pathname).page === current && isOurs(link)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  };
  const go = (/** @type {string} */ path) => {
    if (path === location.pathname) return;
    history.pushState(null, "", path);
    scrollTo(0, 0);
    show();
  };
  addEventListener("popstate", show);
  document.querySelector(".bar")?.addEventListener("click", (event) => {
    const link = /** @type {HTMLElement} */ (event.target).closest("a");
    if (!link || !isOurs(link) || !isPlain(/** @type {MouseEvent} */ (event))) return;
    event.preventDefault();
    go(link.pathname);
  });
  show();
  return go;
}

/** @param {Element} link */
function isOurs(link) {
  return ["/", "/gallery/", "/account/"].includes(/** @type {HTMLAnchorElement} */ (link).pathname);
}
