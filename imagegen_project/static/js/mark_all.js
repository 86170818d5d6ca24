// The box at the head of a list of RQ's entries marks all of them; none of its boxes has a name.
const all = /** @type {HTMLInputElement | null} */ (document.querySelector("#action-toggle"));
const boxes = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input.action-select"));
all?.setAttribute("aria-label", "Mark all entries");
boxes.forEach((box) => box.setAttribute("aria-label", `Mark ${box.value}`));
all?.addEventListener("change", () => boxes.forEach((box) => (box.checked = all.checked)));
