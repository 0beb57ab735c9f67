// @ts-check
// The page of a window: the keys ← and → lead to its neighbours, unless something scrolls or takes text.

for (const hint of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".walk .keys"))) hint.hidden = false;

document.addEventListener("keydown", (event) => {
  const which = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (!which || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target instanceof Element && event.target.closest("input, textarea, select, [role=group]")) return;
  /** @type {HTMLAnchorElement | null} */ (document.querySelector(`.walk a[rel=${which}]`))?.click();
});
