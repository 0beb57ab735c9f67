// @ts-check
// What every page adds to its HTML, which works without: the list of sets closes, a missing image says so.

for (const menu of /** @type {NodeListOf<HTMLDetailsElement>} */ (document.querySelectorAll("details.switch"))) {
  document.addEventListener("click", (event) => {
    if (event.target instanceof Node && !menu.contains(event.target)) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary")?.focus();
  });
}

/** @param {HTMLImageElement} image */
const missing = (image) => {
  image.classList.add("missing");
  const link = image.closest("a");
  if (link) link.title = `${link.title} · image not available`;
};
for (const image of document.querySelectorAll("img")) {
  if (image.complete && image.naturalWidth === 0 && image.loading !== "lazy") missing(image);
  else image.addEventListener("error", () => missing(image), { once: true });
}
