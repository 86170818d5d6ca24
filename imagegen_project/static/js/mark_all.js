// The box at the head of a list of RQ's entries marks all of them.
const all = /** @type {HTMLInputElement | null} */ (document.querySelector("#action-toggle"));
const boxes = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input.action-select"));
all?.addEventListener("change", () => boxes.forEach((box) => (box.checked = all.checked)));
