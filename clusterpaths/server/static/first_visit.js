// @ts-check
// The hint of a view, until it is dismissed. Runs before the page is drawn, so that nothing moves when it is shown or not.

(() => {
  const name = `clusterpaths.hint.${document.currentScript?.getAttribute("data-view") ?? ""}`;
  try {
    if (localStorage.getItem(name)) return;
  } catch {
    return; // nothing can be remembered: better no hint than the same one every time
  }
  document.documentElement.classList.add("first-visit");
  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !event.target.closest(".hint-once button")) return;
    try {
      localStorage.setItem(name, "dismissed");
    } finally {
      document.documentElement.classList.remove("first-visit");
      /** @type {HTMLElement | null} */ (document.querySelector("#content"))?.focus({ preventScroll: true });
    }
  });
})();
