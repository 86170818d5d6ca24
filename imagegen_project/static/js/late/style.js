/** Styles of what opens later. */

/**
 * Adds a style sheet once, and waits for it.
 * @param {string} href
 * @returns {Promise<void>}
 */
export function addStyle(href) {
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = href;
    link.onload = () => resolve();
    link.onerror = () => reject(new Error(href));
    document.head.append(link);
  });
}
