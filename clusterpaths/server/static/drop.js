// @ts-check
// An image dropped, pasted or chosen on any page of a set is sent to the set's …/image, and the answer shown in place.
// Without this script the form on that page does the same. No state but what is in the page.
const SLOW = 4000; // milliseconds until the wait is explained

/** @returns {string} the address of this set's image page; empty on pages of no set */
const target = () => {
  const set = location.pathname.match(/^\/explore\/[^/]+\/[^/]+/);
  return set ? `${set[0]}/image` : "";
};

/** @param {string} tag @param {Record<string, string>} attributes @param {...(string | Node)} children */
const make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

/** @param {DragEvent} event */
const carriesFiles = (event) => Boolean(event.dataTransfer?.types.includes("Files"));

// While something is dragged over the page.
const overlay = make(
  "div",
  { class: "drop-overlay", hidden: "" },
  make("p", {}, make("strong", {}, "Drop the image"), make("span", {}, "to see its prediction, its path and its OOD score")),
);

// While it is sent, and where it fails. A modal dialog: focus stays in it, Escape closes it.
const title = make("h2", { id: "drop-title", tabindex: "-1" });
const text = make("p", { id: "drop-text" });
const bar = make("progress", { "aria-labelledby": "drop-title" });
const close = make("button", { type: "button" }, "Close");
const dialog = /** @type {HTMLDialogElement} */ (
  make("dialog", { class: "drop-dialog", "aria-labelledby": "drop-title", "aria-describedby": "drop-text" }, title, text, bar, close)
);
let answered = false; // whether the page shows an answer in place of what its address gave
let sending = /** @type {AbortController | null} */ (null);
close.addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => sending?.abort());

/** @param {string} heading @param {string} words @param {"waiting" | "failed"} state */
const tell = (heading, words, state) => {
  title.textContent = heading;
  text.textContent = words;
  bar.hidden = state !== "waiting";
  close.textContent = state === "waiting" ? "Cancel" : "Close";
  dialog.dataset.state = state;
  if (!dialog.open) dialog.showModal();
  if (state === "failed") title.focus(); // read out, also where the dialog was open before
};

/** The answer's page in place of this one. @param {Document} page @param {string} address */
const show = (page, address) => {
  dialog.close();
  document.title = page.title;
  answered = true;
  for (const part of ["main", "header.site nav"]) {
    const own = page.querySelector(part);
    if (own) document.querySelector(part)?.replaceWith(document.adoptNode(own));
  }
  history.pushState({ dropped: true }, "", address);
  scrollTo(0, 0);
  const heading = /** @type {HTMLElement | null} */ (document.querySelector("main h1"));
  heading?.setAttribute("tabindex", "-1");
  heading?.focus({ preventScroll: true });
};

/** @param {File | undefined} file */
const send = async (file) => {
  const address = target();
  if (!address || sending) return;
  if (!file) {
    tell("Not a file", "Drop an image file: JPEG, PNG, WebP, BMP or GIF.", "failed");
    return;
  }
  const form = document.querySelector("form[data-limit]");
  const limit = Number(form?.getAttribute("data-limit") ?? Infinity);
  if (file.size > limit) {
    const megabytes = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(1);
    tell("This image is too large", `${file.name} has ${megabytes(file.size)} MB; the server accepts up to ${megabytes(limit)} MB. Make it smaller, then drop it again.`, "failed");
    return;
  }
  tell(`Explaining ${file.name} …`, "The model of this set runs on the server.", "waiting");
  const slow = setTimeout(() => (text.textContent = "The model is being loaded: the first image of a set takes longer."), SLOW);
  sending = new AbortController();
  const aborted = sending.signal;
  try {
    const fields = new FormData();
    fields.append("image", file, file.name);
    const answer = await fetch(address, { method: "POST", body: fields, signal: aborted, headers: { Accept: "text/html" } });
    if (answer.status === 401) {
      location.assign(`/login?next=${encodeURIComponent(address)}`);
      return;
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    sending = null; // closing the dialog is no longer an abort
    if (answer.ok) {
      show(page, address);
      return;
    }
    const heading = page.querySelector("[data-problem-title]") ?? page.querySelector("h1");
    const words = page.querySelector("[data-problem]");
    tell(heading?.textContent?.trim() || `The server answered ${answer.status}`, words?.textContent?.trim().replace(/\s+/g, " ") ?? "", "failed");
  } catch (error) {
    if (aborted.aborted) return;
    tell("The server did not answer", "It may have stopped, or the image may be too large. Try again, or try a smaller image.", "failed");
  } finally {
    clearTimeout(slow);
    sending = null;
  }
};

let depth = 0; // dragenter and dragleave come for every element under the pointer
document.addEventListener("dragenter", (event) => {
  if (!carriesFiles(event) || !target()) return;
  event.preventDefault();
  depth += 1;
  overlay.hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!carriesFiles(event)) return;
  depth = Math.max(0, depth - 1);
  overlay.hidden = depth === 0;
});
document.addEventListener("dragover", (event) => {
  if (carriesFiles(event) && target()) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event) || !target()) return;
  event.preventDefault();
  depth = 0;
  overlay.hidden = true;
  send(event.dataTransfer?.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (file && target()) {
    event.preventDefault();
    send(file);
  }
});
document.addEventListener("change", (event) => {
  const input = event.target;
  if (input instanceof HTMLInputElement && input.type === "file" && input.form?.hasAttribute("data-limit") && input.files?.length) {
    send(input.files[0]);
    input.value = ""; // the same file can be chosen again
  }
});
addEventListener("popstate", (event) => {
  const leaves = answered ? !event.state?.dropped && !location.hash : event.state?.dropped;
  if (leaves) location.reload(); // what the answer replaced is at its own address; an answer is not stored
});

if (target()) {
  if (!document.querySelector('link[href*="/ask.css"]'))
    document.head.append(make("link", { rel: "stylesheet", href: new URL("ask.css", import.meta.url).pathname }));
  document.body.append(overlay, dialog);
}
