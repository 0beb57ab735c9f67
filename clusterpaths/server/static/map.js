// @ts-check
// The map page: what is drawn when, and the address.

import { places } from "./map_badges.js";
import { colouring, colourings, tokens } from "./map_colour.js";
import { Data, REPLACED } from "./map_data.js";
import { Flow } from "./map_flow.js";
import { Histogram } from "./map_histogram.js";
import { SmallMaps } from "./map_layers.js";
import { card, chips, common, element, legend, paths, percent, some, thousands } from "./map_panel.js";
import { region, Selection } from "./map_selection.js";
import { extent, MapView } from "./map_view.js";
import { Visible } from "./map_visible.js";

const start = JSON.parse(document.getElementById("map-start")?.textContent ?? "{}");
const part = (/** @type {string} */ name) => /** @type {any} */ (document.getElementById(`map-${name}`));
start.names = [];
const page = /** @type {HTMLElement} */ (document.getElementById("map"));
const data = new Data(start.api, start.version);
const view = new MapView(part("canvas"), part("over"));
const asked = new URLSearchParams(location.search);
/** What is shown; the select elements may be ahead of it. */
let layer = start.layers.includes(asked.get("layer")) ? asked.get("layer") : start.layers.at(-1);
let shown = "";
/** @type {Selection} */
let selection;
/** @type {import("./map_colour.js").Colouring} */
let colours;
/** @type {number[]} of points that are not selected; asking the page's style for it takes long */
let pale = [];
/** @type {SmallMaps | undefined} */
let small;
/** @type {Histogram[]} */
const histograms = [];
const visible = new Visible(failed);
/** @type {{update: () => void, element: HTMLElement}[]} */
let legends = [];

/** @param {unknown} error */
function failed(error) {
  if (error instanceof DOMException && error.name === "AbortError") return;
  part("problem").textContent = error instanceof Error ? error.message : String(error);
  part("problem").hidden = false;
}

async function begin() {
  data.points(layer).catch(() => {}); // asked for at once, beside what the set has
  await data.open();
  selection = new Selection(data);
  const restored = selection.restore(asked); // the first change: what is selected while the page loads follows
  restored.catch(() => {}); // awaited below
  fillChoices();
  await recolour(false);
  paintLarge();
  page.dataset.state = "drawn";
  part("bar").inert = false;
  performance.mark("map-first-picture");
  const { info } = data;
  const named = names();
  await Promise.all([
    ...["id", "right", "prediction", "label", "ood"].filter((name) => data.has(name)).map((name) => data.column(name)),
    named.catch(() => {}), // numbers do, too
    restored,
  ]);
  await recolour(); // with the clusters' names
  selection.addEventListener("change", follow);
  selection.addEventListener("finish", () => {
    write(true);
    say();
    visible.finish();
  });
  visible.add(part("canvas"), { draw: paintLarge });
  visible.add(part("side"), { draw: () => legends.forEach((one) => one.update()), text: true });
  small = new SmallMaps(part("layers"), data, visible, what, (name) => changeLayer(name).catch(failed));
  ranges();
  new Flow(part("flow"), data, selection, start, visible); // adds itself to what is visible
  const columns = ["path", ...info.layers.map((one) => `cluster:${one.name}`)];
  visible.add(part("paths"), {
    load: () => Promise.all(columns.map((name) => data.column(name))),
    draw: () => paths(part("paths"), data, selection, start),
    text: true,
  });
  for (const name of Object.keys(requests)) visible.add(part(name).closest("section"), { draw: () => later(name) });
  describe();
  follow();
  named.catch(failed);
  page.dataset.state = "ready";
  write(false);
}

/** The clusters' names, by layer and number. */
async function names() {
  const { clusters } = await (await data.get("names", new URLSearchParams())).json();
  let at = 0;
  start.names = data.info.layers.map(({ k }) => clusters.slice(at, (at += k)).map((/** @type {{text: string}} */ one) => one.text));
}

function fillChoices() {
  const choices = colourings(data, start);
  const groups = [...new Set(choices.map((one) => one.group))].map((name) =>
    element("optgroup", { label: name }, ...choices.filter((one) => one.group === name).map((one) => element("option", { value: one.value }, one.text))));
  part("colour").replaceChildren(...groups);
  choose(asked);
}

/**
 * Layer and colours of an address, which may lack them.
 * @param {URLSearchParams} query
 */
function choose(query) {
  for (const [name, usual] of [["layer", start.layers.at(-1)], ["colour", part("colour").options[0].value]]) {
    part(name).value = query.get(name) ?? usual;
    if (!part(name).value) part(name).value = usual; // the set has no such
  }
}

let latest = 0;

/**
 * The chosen layer and colours, at once when all that they need is here; of several calls the last one counts.
 * @param {boolean} drawn with the legends
 */
async function recolour(drawn = true) {
  const mine = ++latest;
  const [name, value] = [part("layer").value, part("colour").value];
  try {
    const [found, others] = await Promise.all([colouring(data, value, name, start), drawn ? facets(name, value) : [], data.points(name)]);
    if (mine !== latest) return;
    if (name !== layer) view.moved = false;
    [layer, shown, colours, pale] = [name, value, found, tokens().none];
    if (!drawn) return;
    legends = [found, ...others].map((one) => legend(one, selection, failed));
    part("side").replaceChildren(...legends.map((one) => one.element));
    describe();
    visible.update();
  } catch (error) {
    if (mine === latest) [part("layer").value, part("colour").value] = [layer, shown];
    throw error;
  }
}

/**
 * What is listed below the legend of the colours.
 * @param {string} name of the layer
 * @param {string} value of the colours
 */
function facets(name, value) {
  const wanted = colourings(data, start).filter((one) => one.value !== value && ["Class", "Data set"].includes(one.group));
  return Promise.all(wanted.map((one) => colouring(data, one.value, name, start)));
}

function what(/** @type {string} */ name) {
  const on = selection.any ? selection.on : null;
  return { points: data.now(`points of ${name}`), on, count: selection.count, codes: colours.codes, palette: colours.palette, pale };
}

function paintLarge() {
  view.regions = selection.values("within").map(region).filter((one) => one.layer === layer).map((one) => one.corners);
  view.badges = badges();
  view.show(what(layer));
}

/** What is shown large, in words. */
function describe() {
  const about = data.info.layers.find((one) => one.name === layer);
  const share = about?.method === "umap" ? " Neighbours lie together; distances between groups, their sizes and densities mean little." : about?.explained.length ? ` The two axes explain ${percent(about.explained.reduce((a, b) => a + b, 0))} of the variance.` : "";
  part("caption").textContent = `${layer}, ${about?.k} clusters; ${(about?.method ?? "").toUpperCase()} coordinates.${share}`;
  part("canvas").setAttribute("aria-label", `Map of ${layer}: ${thousands(selection.count)} of ${thousands(data.n)} examples selected`);
  small?.press(layer);
}

/** The clusters' numbers, where the points have the clusters' colours; as many as differ in colour or pattern. */
function badges() {
  const [points, clusters] = [data.now(`points of ${layer}`), data.now(`cluster:${layer}`)];
  const k = data.info.layers.find((one) => one.name === layer)?.k ?? 0;
  if (!colours.numbers || !clusters || k > start.numbers * start.patterns) return [];
  return places(points, clusters, k, extent(points)).map((one) => ({ ...one, colour: colours.palette[one.number + 1], pattern: one.number % start.patterns }));
}

/** @param {string} name */
async function changeLayer(name) {
  part("layer").value = name;
  await recolour();
  write(true, true);
}

function ranges() {
  const wanted = [
    ...(data.has("ood") ? [{ title: "OOD score", name: "ood" }] : []),
    ...(data.has("confidence") ? [{ title: "Confidence", name: "confidence" }] : []),
    ...data.info.layers.filter((one) => data.has(`distance:${one.name}`)).map((one) => ({ title: `Distance in ${one.name}`, name: "distance", layer: one.name })),
  ];
  part("ranges").closest("section").hidden = !wanted.length;
  for (const one of wanted) {
    const found = new Histogram({ ...one, selection, failed });
    part("ranges").append(found.element);
    histograms.push(found);
    visible.add(found.element, { load: async () => found.fill(await data.column(found.key)), draw: () => found.draw() });
  }
}

/** Everything that shows the selection, after it has changed. Links are right at once, also those that are followed at once. */
function follow() {
  part("problem").hidden = true;
  part("count").textContent = thousands(selection.count);
  part("of").textContent = selection.any ? `of ${thousands(data.n)} examples (${percent(selection.count / data.n)})` : `example${data.n === 1 ? "" : "s"}: nothing is filtered out`;
  if (!selection.any && document.activeElement === part("clear")) part("canvas").focus({ preventScroll: true }); // as the button goes
  part("clear").hidden = !selection.any;
  chips(part("chips"), part("canvas"), selection, failed);
  asking?.abort();
  part("common").setAttribute("aria-busy", "true"); // until it is about this selection
  part("some").closest("section").hidden = !selection.count;
  for (const name of Object.keys(requests)) due.add(name);
  visible.update();
  for (const one of histograms) one.update();
  links();
  const row = Number(part("tip").dataset.row);
  part("tip").dataset.row = ""; // its link has the selection
  if (!part("tip").hidden) tip(selection.on[row] ? row : -1);
}

/** The links with the same selection. */
function links() {
  const text = selection.query().toString();
  part("ask").href = `${start.page}/ask${text && "?"}${text}`;
  const words = ["Open this selection in Ask", "See this example"];
  part("ask").textContent = words[selection.count] ?? `See these ${thousands(selection.count)} examples`;
  part("csv").href = `${start.api}/examples.csv${text && "?"}${text}`;
}

/** What is shown as the query of an address. */
function address() {
  const query = selection.query();
  if (layer !== start.layers.at(-1)) query.set("layer", layer);
  if (shown !== part("colour").options[0].value) query.set("colour", shown);
  return query.toString();
}

/** The query of the page's address, and whether it was written for another layer or colours: several of them in a row are one entry of the history. */
let written = { search: location.search, looks: false };

/** @type {URLSearchParams | undefined} of the newest Back or Forward while it is under way */
let returning;

/**
 * Write what is shown to the address: as an entry of the history, so that Back undoes it, or in place of the last one.
 * @param {boolean} entry
 * @param {boolean} [looks] layer or colours have changed, not the selection
 */
function write(entry, looks = false) {
  if (returning || page.dataset.state !== "ready") return; // until then, the address is of what will be shown
  const text = address();
  const search = text && `?${text}`;
  if (entry && search === written.search) return;
  history[entry && !(looks && written.looks) ? "pushState" : "replaceState"](null, "", `${location.pathname}${search}`);
  written = { search: location.search, looks };
}

/** What the address says, after Back or Forward: in place of changes that are still waiting for a column. */
async function restore() {
  if (location.search === written.search) return; // a link to a part of the page
  written = { search: location.search, looks: false };
  if (page.dataset.state !== "ready") return location.reload();
  const query = new URLSearchParams(location.search);
  returning = query;
  choose(query);
  const steps = await Promise.allSettled([recolour(), selection.restore(query)]);
  if (returning !== query) return; // by now there is another address
  returning = undefined;
  write(false); // a step may have failed
  for (const one of histograms) one.update(true);
  visible.finish();
  say();
  for (const one of steps) if (one.status === "rejected") failed(one.reason);
}

/** For screen readers: not at every step of a brush. */
function say() {
  describe();
  part("status").textContent = `${part("count").textContent} ${part("of").textContent}`;
}

/** @type {AbortController | undefined} */
let asking;

/** @type {Record<string, () => void>} what takes requests */
const requests = { some: () => some(part("some"), data, selection, start), common: summary };
/** Those that are not about this selection yet. */
const due = new Set();
/** @type {Record<string, number>} */
const timers = {};

/**
 * What takes a request and is on the screen, once the selection is left alone.
 * @param {string} name
 */
function later(name) {
  window.clearTimeout(timers[name]);
  timers[name] = window.setTimeout(() => due.delete(name) && requests[name](), 250);
}

/** What the selection has in common. */
function summary() {
  const box = part("common");
  const sentence = (/** @type {string} */ text) => {
    box.replaceChildren(element("p", { class: "hint" }, text));
    box.removeAttribute("aria-busy");
  };
  if (!selection.count) return sentence("No example passes all filters.");
  if (!selection.any) return sentence("Select examples to see how they differ from the others: with the lasso, or by a class, a cluster or a range.");
  asking = new AbortController();
  const { signal } = asking;
  data.get("summary", selection.query(), signal)
    .then((answer) => answer.json())
    .then((found) => {
      if (signal.aborted) return;
      if (found.total !== selection.count) throw new Error(REPLACED);
      common(box, found, selection);
      box.removeAttribute("aria-busy");
    })
    .catch((error) => error.name === "AbortError" || sentence(error.message));
}

/**
 * The card of an example.
 * @param {number} row -1: none
 */
function tip(row) {
  const box = part("tip");
  const id = data.now("id")?.[row];
  small?.mark(id === undefined ? -1 : row);
  view.canvas.classList.toggle("near", row >= 0);
  box.setAttribute("aria-live", view.keyed ? "polite" : "off");
  if (row < 0 || id === undefined) {
    box.hidden = true;
    box.dataset.row = "";
    return;
  }
  const points = data.now(`points of ${layer}`);
  const [x, y] = view.at(points[2 * row], points[2 * row + 1]);
  if (box.dataset.row !== String(row)) {
    box.dataset.row = String(row);
    card(box, row, data, selection, start);
  }
  box.hidden = false;
  const right = x > view.width / 2;
  box.style.left = right ? "" : `${Math.round(x + 14)}px`;
  box.style.right = right ? `${Math.round(view.width - x + 14)}px` : "";
  box.style.top = `${Math.round(Math.min(Math.max(y - 40, 8), Math.max(8, view.height - box.offsetHeight - 8)))}px`;
}

/** @param {string} mode */
function setMode(mode) {
  view.mode = mode;
  part("canvas").dataset.mode = mode;
  part("move").setAttribute("aria-pressed", String(mode === "move"));
  part("lasso").setAttribute("aria-pressed", String(mode === "lasso"));
}

view.addEventListener("hover", (event) => tip(/** @type {CustomEvent} */ (event).detail.row));
view.addEventListener("mode", (event) => setMode(/** @type {CustomEvent} */ (event).detail.mode));
view.addEventListener("lasso", (event) => {
  const digits = Math.min(Math.max(Math.ceil(Math.log10(view.view.scale)) + 1, 0), 15); // a tenth of a pixel
  const rounded = (/** @type {number[]} */ corner) => corner.map((one) => String(Number(one.toFixed(digits)))).join();
  const text = /** @type {CustomEvent} */ (event).detail.corners.map(rounded).join(";");
  const here = layer;
  const mark = data.info.layers.find((one) => one.name === layer)?.method === "umap" ? "umap;" : ""; // of its coordinates
  selection.set("within", (before) => {
    const others = before.filter((one) => region(one).layer !== here);
    if (others.length >= start.regions) throw new Error(`At most ${start.regions} layers can have a region. Remove one of another layer first.`);
    return [...others, `${here}:${mark}${text}`];
  }).catch(failed);
});
view.addEventListener("open", (event) => {
  const { row, event: cause } = /** @type {CustomEvent} */ (event).detail;
  const id = data.now("id")?.[row];
  if (row < 0 || id === undefined) return;
  const href = `${start.page}/examples/${id}${selection.list}`;
  if (cause.pointerType === "touch") tip(row);
  else if (cause.ctrlKey || cause.metaKey) window.open(href, "_blank", "noopener");
  else location.assign(href);
});
part("layer").addEventListener("change", () => changeLayer(part("layer").value).catch(failed));
part("colour").addEventListener("change", () => recolour().then(() => write(true, true)).catch(failed));
part("move").addEventListener("click", () => setMode("move"));
part("lasso").addEventListener("click", () => setMode("lasso"));
part("in").addEventListener("click", () => view.zoom(1.4));
part("out").addEventListener("click", () => view.zoom(1 / 1.4));
part("fit").addEventListener("click", () => view.fit());
part("visible").addEventListener("click", () => view.select(view.visible()));
part("clear").addEventListener("click", () => selection.clear().catch(failed));
window.addEventListener("popstate", () => restore().catch(failed));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.dataset.state === "ready" && recolour().catch(failed));

begin().catch((error) => {
  page.dataset.state = "failed";
  failed(error);
});
