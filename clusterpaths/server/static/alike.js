// @ts-check
// The slider of …/alike shows its examples while it moves; without this script there are a button and links.

const form = /** @type {HTMLFormElement} */ (document.querySelector("form.depth"));
const slider = /** @type {HTMLInputElement} */ (form.querySelector("input[type=range]"));
const button = /** @type {HTMLElement} */ (form.querySelector(".buttons"));
button.hidden = true;
let running = new AbortController();

/** @param {string} address */
const show = async (address) => {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  try {
    const response = await fetch(address, { signal, headers: { Accept: "text/html" } });
    if (!response.ok || response.redirected) throw new Error(`${response.status}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const id of ["nearest", "stops"]) {
      const fresh = page.getElementById(id);
      if (fresh) document.getElementById(id)?.replaceWith(fresh);
    }
    history.replaceState(null, "", address);
  } catch {
    if (!signal.aborted) location.assign(address); // the page of the error, or the login
  }
};

let waiting = 0;
slider.addEventListener("input", () => {
  clearTimeout(waiting);
  const query = new URLSearchParams(location.search); // with the list that the example was opened from
  query.set("depth", slider.value);
  const address = `${location.pathname}?${query}`;
  waiting = window.setTimeout(() => show(address), 60);
});
