// @ts-check
// What every page adds to its HTML, which works without: the list of sets closes, a missing image says so,
// Ask's form fits a phone and is as its address says, what colour stands for is remembered, and the keys
// ← and → lead to the neighbours of an example or window.

/**
 * What was stored by `remember`; null where nothing was, or where the browser stores nothing.
 * @param {string} name
 */
function remembered(name) {
  try {
    return localStorage.getItem(`clusterpaths.${name}`);
  } catch {
    return null;
  }
}

/**
 * @param {string} name
 * @param {string} value
 */
function remember(name, value) {
  try {
    localStorage.setItem(`clusterpaths.${name}`, value);
  } catch {
    // forgotten when the page is left
  }
}

const colours = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=colours]"));
for (const choice of colours) {
  choice.checked = choice.value === (remembered("colours") ?? "class");
  choice.addEventListener("change", () => remember("colours", choice.value));
}

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
  if (image.complete && image.currentSrc && !image.naturalWidth) missing(image); // failed before this script ran
  else image.addEventListener("error", () => missing(image), { once: true });
}

// Beside the answer there is room for the filters; on a narrow screen (ask.css) they would hide it.
if (window.matchMedia("(max-width: 999.98px)").matches) document.querySelector(".ask-form details")?.removeAttribute("open");

// Browsers bring a page back with what was ticked since, which contradicts the answer beside it.
addEventListener("pageshow", (event) => {
  if (event.persisted) /** @type {HTMLFormElement | null} */ (document.querySelector("#filters"))?.reset();
});

// The keys, unless something scrolls or takes text.
for (const hint of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".walk .keys"))) hint.hidden = false;

document.addEventListener("keydown", (event) => {
  const which = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (!which || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target instanceof Element && event.target.closest("input, textarea, select, [role=group]")) return;
  /** @type {HTMLAnchorElement | null} */ (document.querySelector(`.walk a[rel=${which}]`))?.click();
});
