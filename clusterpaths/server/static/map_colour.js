// @ts-check
// What colours the points: a code per example, a palette, and a legend.

/**
 * @typedef {{text: string, colour: number[], code: number, filter?: [string, string, string | undefined], mark?: string}} Entry
 * @typedef {{codes: Uint32Array, palette: number[][], entries: Entry[], key: string, range?: [string, string], title: string,
 *   numbers?: boolean, frequent?: boolean}} Colouring; frequent: the legend lists the most frequent values first
 */

const STEPS = 250; // of a continuous scale
// Viridis (Smith and van der Walt, matplotlib): perceptually even; eleven of its colours, mixed in between.
const VIRIDIS = ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"];

/** @param {string} hex */
const rgb = (hex) => [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));

/** The page's colours, which depend on light and dark. */
export function tokens() {
  const style = getComputedStyle(document.documentElement);
  const token = (/** @type {string} */ name) => rgb(style.getPropertyValue(name).trim());
  return { classes: [0, 1, 2, 3, 4, 5, 6, 7].map((i) => token(`--f${i}`)), none: token("--lab"), dark: matchMedia("(prefers-color-scheme: dark)").matches };
}

/** The part of the scale that contrasts with the page. */
export function scale() {
  const [from, to] = tokens().dark ? [0.16, 1] : [0, 0.93];
  return Array.from({ length: STEPS }, (_, i) => {
    const at = (from + ((to - from) * i) / (STEPS - 1)) * (VIRIDIS.length - 1);
    const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
    const [a, b] = [rgb(VIRIDIS[low]), rgb(VIRIDIS[low + 1])];
    return a.map((v, c) => Math.round(v + (b[c] - v) * (at - low)));
  });
}

/**
 * Of the ways to colour that the server knows, those that this set has.
 * @param {import("./map_data.js").Data} data
 * @param {any} start the page's constants
 * @returns {{value: string, text: string, group: string}[]}
 */
export function colourings(data, start) {
  return start.colourings.filter((/** @type {{column: string}} */ { column }) => data.has(column) && (column !== "split" || data.info.splits.length > 1));
}

/**
 * @param {import("./map_data.js").Data} data
 * @param {string} value of `colourings`
 * @param {string} layer that is shown large
 * @param {any} start the page's constants
 * @returns {Promise<Colouring>}
 */
export async function colouring(data, value, layer, start) {
  const { info } = data;
  const { classes, none } = tokens();
  if (value === "ood" || value === "confidence" || value === "distance") {
    const name = value === "distance" ? `distance:${layer}` : value;
    return continuous(await data.column(name), name === value ? (value === "ood" ? "OOD score" : value) : `distance in ${layer}`, none);
  }
  if (value === "prediction" || value === "label") {
    const names = info[value === "label" ? "labels" : "predictions"];
    const column = await data.column(value);
    const entries = ofClasses(info, names, start.colours, classes, none, value);
    return { ...categories(value, value === "label" ? "Label" : "Prediction", column, entries, value === "label" ? "none" : ""), frequent: true };
  }
  const plain = (/** @type {string[]} */ names) => names.map((text, i) => ({ text, colour: i < start.colours ? classes[i] : classes[start.colours] }));
  if (value === "right") {
    const column = await data.column("right");
    return categories(value, "Prediction is", column, [
      { text: "incorrect", value: "wrong", colour: classes[6] },
      { text: "correct", value: "right", colour: classes[0] },
    ], "");
  }
  if (value === "split") return categories("split", "Split", await data.column("split"), plain(info.splits), "");
  if (value === "path") {
    const column = await data.column("path");
    const some = Math.min(start.colours, info.num_paths);
    const names = await pathNames(data, column, some);
    const entries = names.map((text, i) => ({ text, colour: classes[i] }));
    if (info.num_paths > some) entries.push({ text: `${(info.num_paths - some).toLocaleString("en")} other paths`, colour: classes[start.colours] });
    const codes = Int16Array.from(column, (/** @type {number} */ rank) => Math.min(rank, some));
    return categories("path", "Path", codes, entries, "", some);
  }
  if (value.startsWith("attribute:")) {
    const name = value.slice("attribute:".length);
    const column = await data.column(value);
    const text = name.replaceAll("_", " ");
    return categories("attribute", text, Int8Array.from(column, (/** @type {number} */ v) => (v === 0 ? -1 : v === 1 ? 1 : 0)), [
      { text: "without", value: `-${name}`, colour: classes[7] },
      { text: "with", value: name, colour: classes[5] },
    ], "", undefined, name);
  }
  const of = value === "cluster" ? layer : value.slice("cluster:".length);
  const at = info.layers.findIndex((one) => one.name === of);
  const column = await data.column(`cluster:${of}`);
  const entries = Array.from({ length: info.layers[at].k }, (_, c) => ({
    text: start.names[at]?.[c] || `cluster ${c}`, value: `${of}:${c}`, colour: classes[c % start.numbers], mark: String(c),
  }));
  const found = categories("cluster", `Clusters of ${of}`, column, entries, "", undefined, of);
  return { ...found, numbers: of === layer, frequent: true };
}

/**
 * Classes have the colours that they have on all pages: the most frequent ones have one each.
 * @param {import("./map_data.js").Info} info
 * @param {string[]} names
 * @param {number} own
 * @param {number[][]} classes
 * @param {number[]} none
 * @param {string} which
 */
function ofClasses(info, names, own, classes, none, which) {
  const known = info.classes.length > 0 && (info.source === `${which}s` || names.some((one) => info.classes.includes(one)));
  return names.map((text, i) => {
    const place = known ? info.classes.indexOf(text) : i;
    return { text, colour: place < 0 ? classes[own] : classes[Math.min(place, own)] ?? none };
  });
}

/**
 * @param {string} name of the filter that the legend toggles
 * @param {string} title
 * @param {ArrayLike<number>} column below the number of entries; -1: not known
 * @param {{text: string, value?: string, colour: number[], mark?: string}[]} listed
 * @param {string} missing value of the filter for those that are not known; empty: there is none
 * @param {number} [filters] how many of the entries are values of the filter
 * @param {string} [of] the layer or attribute, where each has a filter of its own
 * @returns {Colouring}
 */
function categories(name, title, column, listed, missing, filters = listed.length, of = undefined) {
  const { none } = tokens();
  const codes = new Uint32Array(column.length); // there may be thousands of classes or clusters
  let unknown = false;
  for (let i = 0; i < codes.length; i++) {
    const value = column[i];
    unknown ||= value < 0;
    codes[i] = value < 0 ? 0 : 1 + value;
  }
  const palette = [none, ...listed.map((one) => one.colour)];
  /** @type {Entry[]} */
  const entries = listed.map((one, i) => ({
    text: one.text, colour: one.colour, code: i + 1, mark: one.mark, filter: i < filters ? [name, one.value ?? one.text, of] : undefined,
  }));
  if (unknown) entries.push({ text: name === "label" ? "no label" : "not known", colour: none, code: 0, filter: missing ? [name, missing, of] : undefined });
  return { codes, palette, entries, title, key: of === undefined ? name : `${name}:${of}` };
}

/**
 * From the 1st to the 99th percentile; beyond, the ends of the scale.
 * @param {Float32Array | Float64Array} column
 * @param {string} title
 * @param {number[]} none
 * @returns {Colouring}
 */
function continuous(column, title, none) {
  const sorted = Float64Array.from(column).filter((v) => !Number.isNaN(v)).sort();
  const low = sorted[Math.floor(0.01 * (sorted.length - 1))] ?? 0;
  const high = sorted[Math.ceil(0.99 * (sorted.length - 1))] ?? 1;
  const step = high > low ? (STEPS - 1) / (high - low) : 0;
  const codes = new Uint32Array(column.length);
  for (let i = 0; i < codes.length; i++) {
    const value = column[i];
    codes[i] = Number.isNaN(value) ? 0 : 1 + Math.min(Math.max(Math.round((value - low) * step), 0), STEPS - 1);
  }
  const words = (/** @type {number} */ end) => String(Number(end.toPrecision(3)));
  const range = /** @type {[string, string]} */ ([
    words(low) + (sorted[0] < low ? " and less" : ""), words(high) + (sorted[sorted.length - 1] > high ? " and more" : ""),
  ]);
  return { codes, palette: [none, ...scale()], entries: [], title: title[0].toUpperCase() + title.slice(1), key: "", range };
}

/**
 * The most frequent paths as text, each from one of its examples.
 * @param {import("./map_data.js").Data} data
 * @param {Int32Array} ranks
 * @param {number} count
 */
export async function pathNames(data, ranks, count) {
  const columns = await Promise.all(data.info.layers.map((one) => data.column(`cluster:${one.name}`)));
  return Array.from({ length: count }, (_, rank) => {
    const row = ranks.indexOf(rank);
    return columns.map((column) => column[row]).join("-");
  });
}
