// @ts-check
// Lists beside the map: legend and toggles, chips of the filters, paths, examples, and what the selection has in common.

import { ends, region } from "./map_selection.js";
import { short } from "./map_histogram.js";

const LISTED = 14; // values of a legend
const PATHS = 8;
const SOME = 12;

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {(Node | string)[]} children
 */
export function element(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

/** @param {number} count */
export const thousands = (count) => count.toLocaleString("en");

/**
 * As percent of report/numbers.py, with a digit below 10%: a share that is neither none nor all is not written as such.
 * @param {number} share
 */
export function percent(share) {
  const digits = share > 0 && share < 0.1 ? 1 : 0;
  const [value, least] = [100 * share, 10 ** -digits];
  if (value > 0 && value < least / 2) return `<${least}%`;
  return value >= 100 - least / 2 && value < 100 ? `>${100 - least}%` : `${value.toFixed(digits)}%`;
}

/**
 * Classes of a cluster's colour in report.css: by its majority class, and by its number.
 * @param {any} start
 * @param {number} at layer
 * @param {number} cluster
 */
export const marks = (start, at, cluster) => `f${start.clusters[at]?.[cluster] ?? 8} g${cluster % start.numbers} p${cluster % start.patterns}`;

/**
 * A legend whose entries toggle their value.
 * @param {import("./map_colour.js").Colouring} colouring
 * @param {import("./map_selection.js").Selection} selection
 * @param {(error: Error) => void} failed
 */
export function legend(colouring, selection, failed) {
  const box = element("fieldset", { class: "map-legend" }, element("legend", {}, colouring.title));
  if (colouring.range) {
    const canvas = /** @type {HTMLCanvasElement} */ (element("canvas", { width: String(colouring.palette.length - 1), height: "1", "aria-hidden": "true" }));
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    colouring.palette.slice(1).forEach((colour, i) => {
      context.fillStyle = `rgb(${colour})`;
      context.fillRect(i, 0, 1, 1);
    });
    box.append(canvas, element("p", { class: "map-scale" }, ...colouring.range.map((text) => element("span", {}, text))));
    return { element: box, update() {} };
  }
  const all = new Int32Array(colouring.palette.length);
  for (const code of colouring.codes) all[code]++;
  const there = colouring.entries.filter((one) => all[one.code]);
  if (colouring.frequent) there.sort((a, b) => Number(a.code === 0) - Number(b.code === 0) || all[b.code] - all[a.code]);
  const shown = there.slice(0, LISTED);
  const rows = shown.map((entry) => {
    const dot = element("i", { class: "dot" });
    dot.style.background = `rgb(${entry.colour})`;
    const count = element("span", { class: "num" });
    const bar = element("i", { class: "fill" });
    bar.style.background = `rgb(${entry.colour})`;
    const words = [dot, element("span", { class: "clamp", title: entry.text }, entry.mark !== undefined && entry.text !== `cluster ${entry.mark}` ? `${entry.mark} ${entry.text}` : entry.text), count, element("span", { class: "track" }, bar)];
    const row = entry.filter ? element("button", { type: "button", class: "map-entry" }, ...words) : element("div", { class: "map-entry" }, ...words);
    if (entry.filter) {
      const [name, value, layer] = entry.filter;
      row.addEventListener("click", () => selection.toggle(name, value, layer).catch(failed));
    }
    box.append(row);
    return { entry, row, count, bar };
  });
  const rest = there.length - rows.length;
  if (rest > 0) box.append(element("p", { class: "more" }, `and ${thousands(rest)} more`));
  const update = () => {
    const some = selection.counts(colouring.codes, all.length, colouring.key);
    const most = Math.max(...rows.map((one) => all[one.entry.code]), 1);
    for (const { entry, row, count, bar } of rows) {
      count.textContent = thousands(some[entry.code]);
      bar.style.width = `${(100 * some[entry.code]) / most}%`;
      if (!entry.filter) continue;
      const values = selection.values(entry.filter[0], entry.filter[2]);
      row.setAttribute("aria-pressed", String(values.includes(entry.filter[1])));
      row.classList.toggle("off", values.length > 0 && !values.includes(entry.filter[1]));
    }
  };
  update();
  return { element: box, update };
}

/**
 * The active filters, each with a button that takes it out. The keyboard's focus goes on to the next button, or to `beside`.
 * @param {HTMLElement} list
 * @param {HTMLElement} beside
 * @param {import("./map_selection.js").Selection} selection
 * @param {(error: Error) => void} failed
 */
export function chips(list, beside, selection, failed) {
  const focused = [...list.querySelectorAll("button")].findIndex((one) => one === document.activeElement);
  const items = selection.listed.flatMap((filter) =>
    (filter.name === "id" && filter.values.length > 3 ? [filter.values.join(" ")] : filter.values).map((value) => {
      const [word, text] = described(filter.name, value, filter.values.length);
      const button = element("button", { type: "button", "aria-label": `without the filter ${word} ${text}`, title: "remove this filter" }, "×");
      const layer = filter.key === filter.name ? undefined : filter.key.slice(filter.name.length + 1);
      button.addEventListener("click", () => {
        const left = filter.name === "id" ? [] : filter.values.filter((one) => one !== value);
        selection.set(filter.name, left, layer).catch(failed);
      });
      return element("li", {}, element("span", { class: "word" }, word), " ", element("span", {}, text), " ", button);
    }),
  );
  list.replaceChildren(...items);
  list.hidden = !items.length;
  if (focused >= 0) (items[Math.min(focused, items.length - 1)]?.querySelector("button") ?? beside).focus({ preventScroll: true });
}

/**
 * @param {string} name
 * @param {string} value
 * @param {number} count
 */
function described(name, value, count) {
  const rest = value.slice(value.lastIndexOf(":") + 1);
  const layer = value.slice(0, Math.max(value.lastIndexOf(":"), 0));
  const range = () => {
    const [low, high] = ends(rest);
    return Number.isFinite(low) && Number.isFinite(high) ? `${low} to ${high}` : Number.isFinite(low) ? `${low} or more` : `${high} or less`;
  };
  if (name === "attribute") return [value.startsWith("-") ? "without" : "with", value.replace(/^-/, "").replaceAll("_", " ")];
  if (name === "right") return ["prediction is", value === "right" ? "correct" : "incorrect"];
  if (name === "ood") return ["OOD score", range()];
  if (name === "confidence") return ["confidence", range()];
  if (name === "distance") return [`distance in ${layer}`, range()];
  if (name === "within") return ["region of", `${region(value).layer}, ${region(value).corners.length} corners`];
  if (name === "cluster") return ["cluster", `${layer} ${rest}`];
  if (name === "label" && value === "none") return ["label", "missing"];
  if (name === "id" && count > 3) return ["ids", thousands(count)];
  return [name, value];
}

/**
 * The selection's most frequent paths.
 * @param {HTMLElement} list
 * @param {import("./map_data.js").Data} data
 * @param {import("./map_selection.js").Selection} selection
 * @param {any} start
 */
export function paths(list, data, selection, start) {
  const ranks = data.now("path");
  const columns = data.info.layers.map((one) => data.now(`cluster:${one.name}`));
  const counts = new Int32Array(data.info.num_paths);
  const first = new Int32Array(data.info.num_paths).fill(-1);
  for (const row of selection.rows) if (!counts[ranks[row]]++) first[ranks[row]] = row;
  /** @type {number[]} */
  const best = [];
  for (let rank = 0; rank < counts.length; rank++) {
    if (!counts[rank] || (best.length === PATHS && counts[rank] <= counts[best[PATHS - 1]])) continue;
    best.push(rank);
    best.sort((a, b) => counts[b] - counts[a] || a - b);
    if (best.length > PATHS) best.pop();
  }
  list.replaceChildren(
    ...best.map((rank) => {
      const steps = columns.map((column) => column[first[rank]]);
      const text = steps.join("-");
      const line = element("span", { class: "line" }, ...steps.map((cluster, at) => element("span", { class: `chip ${marks(start, at, cluster)}` }, String(cluster))));
      const fill = element("i", { class: "fill" });
      fill.style.width = `${(100 * counts[rank]) / Math.max(selection.count, 1)}%`;
      return element("li", {}, element("a", { href: `${start.page}/paths/${text}`, "aria-label": `path ${text}` }, line),
        element("span", { class: "track" }, fill), element("span", { class: "num" }, thousands(counts[rank]), " ", element("small", {}, percent(counts[rank] / Math.max(selection.count, 1)))));
    }),
  );
}

/**
 * Examples of the selection, evenly over their ids.
 * @param {HTMLElement} list
 * @param {import("./map_data.js").Data} data
 * @param {import("./map_selection.js").Selection} selection
 * @param {any} start
 */
export function some(list, data, selection, start) {
  const ids = data.now("id");
  const wanted = Math.min(SOME, selection.count);
  const rows = Array.from({ length: wanted }, (_, i) => selection.rows[Math.floor((i * selection.count) / wanted)]);
  const right = data.now("right");
  list.replaceChildren(
    ...rows.map((row) => {
      const inside = start.images
        ? element("img", { src: picture(start, ids[row]), alt: `example ${ids[row]}`, width: "160", height: "160" })
        : element("span", { class: "gone" }, element("span", {}, String(ids[row])));
      if (inside instanceof HTMLImageElement) inside.addEventListener("error", () => inside.classList.add("missing"));
      return element("li", {}, element("a", { class: `thumb${right?.[row] === 0 ? " wrong" : ""}`, href: `${start.page}/examples/${ids[row]}${selection.list}`, title: `example ${ids[row]}` }, inside));
    }),
  );
}

/**
 * What is known about an example.
 * @param {HTMLElement} box
 * @param {number} row
 * @param {import("./map_data.js").Data} data
 * @param {import("./map_selection.js").Selection} selection
 * @param {any} start
 */
export function card(box, row, data, selection, start) {
  const { info } = data;
  const id = data.now("id")[row];
  const value = (/** @type {string} */ name) => data.now(name)?.[row];
  const facts = [
    ["prediction", info.predictions[value("prediction")]], ["label", info.labels[value("label")]],
    ["OOD score", value("ood") === undefined ? undefined : short(value("ood"))],
    ["confidence", Number.isFinite(value("confidence")) ? percent(value("confidence")) : undefined],
  ].filter(([, text]) => text !== undefined);
  const verdict = { 0: "✗ incorrect", 1: "✓ correct" }[/** @type {0 | 1} */ (value("right"))];
  const clusters = info.layers.map((one, at) => [at, value(`cluster:${one.name}`)]).filter(([, c]) => c !== undefined)
    .map(([at, c]) => element("span", { class: `chip ${marks(start, at, c)}` }, String(c)));
  const image = start.images ? [element("img", { src: picture(start, id), alt: "", width: "96", height: "96" })] : [];
  image[0]?.addEventListener("error", () => image[0].remove());
  box.replaceChildren(...image, element("div", {}, element("a", { href: `${start.page}/examples/${id}${selection.list}` }, `Example ${id}`), ...(verdict ? [" ", element("small", {}, verdict)] : []),
    ...facts.map(([word, text]) => element("p", {}, element("small", {}, `${word} `), String(text))), element("p", { class: "line" }, ...clusters)));
}

/**
 * @param {any} start
 * @param {number | bigint} id
 */
const picture = (start, id) => `${start.api}/examples/${id}/image?size=160&v=${encodeURIComponent(start.version)}`;

/**
 * A lift in words: ×3.1, ×1/29, ×0; as common/text.py.
 * @param {number | null} lift null: absent outside
 */
export function times(lift) {
  if (!lift) return lift === null ? "only here" : "×0";
  const exact = lift >= 1 ? lift : 1 / lift;
  const value = exact % 1 === 0.25 || exact % 2 === 0.5 ? exact - 1e-6 : exact; // Python rounds halves to the even digit
  const shown = value >= 9.95 ? thousands(Math.round(value)) : value.toFixed(1).replace(/\.0$/, "");
  return lift >= 1 || shown === "1" ? `×${shown}` : `×1/${shown}`;
}

/**
 * What the server finds about the selection: its record SelectionSummary. Medians and shares of what was selected by say nothing.
 * @param {HTMLElement} box
 * @param {any} found
 * @param {import("./map_selection.js").Selection} selection
 */
export function common(box, found, selection) {
  const clear = [...found.lifts, ...(found.clusters ?? [])].filter((one) => one.clear);
  const rows = clear.sort((a, b) => apart(b.interval) - apart(a.interval)).slice(0, 10);
  const rest = selection.data.n - found.total;
  const others = found.compared < rest ? `the ${thousands(found.compared)} others that have a label` : "the rest of the set";
  const parts = [];
  if (found.right && !selection.values("right").length) parts.push(`${percent(found.right.share)} are predicted correctly.`);
  const scores = found.ood && found.ood_outside && !selection.values("ood").length;
  if (rows.length || scores) parts.push(`Compared with ${others}.`);
  if (scores) parts.push(`Median OOD score: ${short(found.ood.value)} selected, ${short(found.ood_outside.value)} others.`);
  const table = element("table", { class: "map-lifts" }, element("caption", { class: "hidden" }, `How frequent classes, attributes and clusters are in the selection and in ${others}`),
    element("thead", {}, element("tr", {}, ...["", "selected", "others", "ratio"].map((text, i) => element("th", { scope: "col", class: i ? "num" : "" }, text || "which")))),
    element("tbody", {}, ...rows.map((one) => element("tr", {}, element("th", { scope: "row" }, element("small", {}, one.kind), ` ${one.name.replaceAll("_", " ")}`),
      element("td", { class: "num" }, percent(one.share)), element("td", { class: "num" }, percent(one.share_outside)),
      element("td", { class: "num" }, times(one.lift))))));
  box.replaceChildren(...(parts.length ? [element("p", {}, parts.join(" "))] : []), rows.length ? table : element("p", { class: "hint" }, found.compared ? `No class, attribute or cluster is clearly more or less frequent than in ${others}.` : "There are no other examples to compare with."));
}

/**
 * How far from 1 the nearer end of a clear lift's interval is, on a logarithmic axis: the order of the page Ask.
 * @param {[number, number | null]} interval
 */
const apart = ([low, high]) => (low > 1 || high === null ? Math.log(low) : -Math.log(high));
