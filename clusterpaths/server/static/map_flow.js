// @ts-check
// The routes of the selection as a small Sankey: all clusters as blocks, filled by the share that is selected, and the
// selection's bands between neighbouring layers. A layer is loaded and drawn when it is on the screen.

import { marks } from "./map_panel.js";
import { shape } from "./map_view.js";

const [HEIGHT, BLOCK, COLUMN, TOP] = [220, 22, 190, 22];
const BANDS = 120; // the largest ones, over all layers
const LEAST_BANDS = 30; // between two layers
const SMALLEST = 0.8; // CSS pixels per unit; below, numbers are too small to read, and the box scrolls

export class Flow {
  /**
   * @param {HTMLElement} box
   * @param {import("./map_data.js").Data} data
   * @param {import("./map_selection.js").Selection} selection
   * @param {any} start
   * @param {import("./map_visible.js").Visible} visible
   */
  constructor(box, data, selection, start, visible) {
    this.data = data;
    this.selection = selection;
    this.start = start;
    this.failed = visible.failed;
    this.layers = data.info.layers;
    this.most = Math.max(LEAST_BANDS, Math.ceil(BANDS / Math.max(this.layers.length - 1, 1)));
    const width = Math.max(BLOCK, COLUMN * (this.layers.length - 1) + BLOCK) + 60;
    this.svg = /** @type {SVGSVGElement} */ (shape("svg", { viewBox: `-30 0 ${width} ${HEIGHT + TOP + 6}`, class: "map-routes", role: "group", "aria-label": "Clusters of each layer" }));
    this.svg.style.minWidth = `${Math.max(560, Math.round(SMALLEST * width))}px`;
    /** @type {any[][]} */
    this.blocks = this.layers.map(() => []);
    const parts = this.layers.map((layer, at) => {
      const name = shape("text", { x: at * COLUMN + BLOCK / 2, y: 13, class: "name" });
      name.textContent = layer.name.length > 20 ? `${layer.name.slice(0, 19)}…` : layer.name;
      const place = shape("rect", { x: at * COLUMN, y: 0, width: at < this.layers.length - 1 ? COLUMN : BLOCK, height: HEIGHT + TOP, class: "place" });
      return { name, place, bands: shape("g", { class: "bands", "aria-hidden": "true" }), blocks: shape("g", {}) };
    });
    this.bands = parts.map((one) => one.bands);
    this.groups = parts.map((one) => one.blocks);
    this.svg.append(...parts.flatMap((one) => [one.place, one.bands]), ...parts.flatMap((one) => [one.name, one.blocks]));
    box.replaceChildren(this.svg);
    parts.forEach(({ place }, at) => visible.add(place, { load: () => this.load(at), draw: () => this.update(at), text: true }));
  }

  /**
   * The clusters of a layer, and of the next one, to which its bands go.
   * @param {number} at
   */
  async load(at) {
    const both = [at, at + 1].filter((one) => one < this.layers.length);
    const columns = await Promise.all(both.map((one) => this.column(one)));
    both.forEach((one, i) => this.build(one, columns[i]));
  }

  /** @param {number} at */
  column(at) {
    return this.data.column(`cluster:${this.layers[at].name}`);
  }

  /** @param {number} at */
  now(at) {
    return this.data.now(`cluster:${this.layers[at].name}`);
  }

  /**
   * The blocks of a layer.
   * @param {number} at
   * @param {ArrayLike<number>} column
   */
  build(at, column) {
    if (this.blocks[at].length) return;
    const { k } = this.layers[at];
    const sizes = all(column, k);
    const gap = Math.min(4, 60 / k);
    const least = Math.min(1.5, 60 / k); // of a block: small clusters can be seen and chosen, too
    const used = sizes.filter((size) => size > 0).length;
    const free = HEIGHT - gap * (k - 1) - least * used;
    let y = TOP;
    this.blocks[at] = Array.from({ length: k }, (_, c) => {
      const height = sizes[c] && least + (free * sizes[c]) / this.data.n;
      const block = this.block(at, c, y, height, sizes[c]);
      y += height + gap;
      return block;
    });
    this.label(at, selected(column, k, this.selection.rows)); // also of a layer whose own bands are not drawn yet
  }

  /**
   * @param {number} at layer
   * @param {number} cluster
   * @param {number} y
   * @param {number} height
   * @param {number} total
   */
  block(at, cluster, y, height, total) {
    const layer = this.layers[at].name;
    const colour = marks(this.start, at, cluster);
    const group = shape("g", { tabindex: total ? 0 : -1, role: "button", class: "block", "data-cluster": `${layer}:${cluster}` });
    const x = at * COLUMN;
    const fill = shape("rect", { x, width: BLOCK, class: `${colour} part` });
    const title = shape("title", {});
    const number = shape("text", { x: x - 6, y: y + height / 2 + 4, class: "number" });
    number.textContent = height > 9 ? String(cluster) : "";
    group.append(shape("rect", { x, y, width: BLOCK, height, class: `${colour} whole` }), fill, shape("rect", { x, y, width: BLOCK, height, class: "edge" }), number, title);
    const choose = () => this.selection.toggle("cluster", `${layer}:${cluster}`, layer).catch(this.failed);
    group.addEventListener("click", choose);
    group.addEventListener("keydown", (event) => {
      if (!["Enter", " "].includes(/** @type {KeyboardEvent} */ (event).key)) return;
      event.preventDefault();
      choose();
    });
    const pattern = cluster % this.start.patterns;
    if (pattern) number.before(shape("rect", { x, y, width: BLOCK, height, class: "pattern", fill: `url(#pattern${pattern})` }));
    if (total) this.groups[at].append(group);
    return { group, fill, title, y, height, total, colour, x, name: this.start.names[at]?.[cluster] };
  }

  /**
   * The selected share of a layer's blocks, and its bands to the next layer.
   * @param {number} at
   */
  update(at) {
    const { rows } = this.selection;
    const { k } = this.layers[at];
    const pairs = at + 1 < this.layers.length ? this.pairs(at, rows) : undefined;
    const counts = pairs ? sums(pairs, k, this.layers[at + 1].k) : selected(this.now(at), k, rows);
    this.label(at, counts);
    if (pairs) this.draw(at, pairs);
  }

  /**
   * The blocks' filling and words.
   * @param {number} at
   * @param {ArrayLike<number>} counts selected examples of each cluster
   */
  label(at, counts) {
    const { name } = this.layers[at];
    this.blocks[at].forEach((block, c) => {
      const share = block.total ? counts[c] / block.total : 0;
      const height = block.height * share;
      block.fill.setAttribute("y", String(block.y + block.height - height));
      block.fill.setAttribute("height", String(height));
      const text = `${name} cluster ${c}${block.name ? ` (${block.name})` : ""}: ${counts[c].toLocaleString("en")} of ${block.total.toLocaleString("en")} examples selected`;
      block.title.textContent = text;
      block.group.setAttribute("aria-label", text);
      block.group.setAttribute("aria-pressed", String(this.selection.values("cluster", name).includes(`${name}:${c}`)));
    });
  }

  /**
   * How many of these rows go from each cluster of a layer to each of the next.
   * @param {number} at
   * @param {Int32Array} rows
   */
  pairs(at, rows) {
    const [left, right, k] = [this.now(at), this.now(at + 1), this.layers[at + 1].k];
    const found = new Int32Array(this.layers[at].k * k);
    for (let i = 0; i < rows.length; i++) found[left[rows[i]] * k + right[rows[i]]]++;
    return found;
  }

  /**
   * @param {number} at
   * @param {Int32Array} pairs
   */
  draw(at, pairs) {
    const { k } = this.layers[at + 1];
    const occupied = pairs.filter((count) => count > 0);
    const least = occupied.length > this.most ? occupied.sort()[occupied.length - this.most] : 1;
    const leaving = this.blocks[at].map(() => 0);
    const arriving = this.blocks[at + 1].map(() => 0);
    /** @type {SVGElement[]} */
    const paths = [];
    pairs.forEach((count, code) => {
      if (!count) return;
      const [from, to] = [Math.floor(code / k), code % k];
      const [a, b] = [this.blocks[at][from], this.blocks[at + 1][to]];
      const [high, low] = [(a.height * count) / a.total, (b.height * count) / b.total];
      const y = a.y + leaving[from];
      const z = b.y + arriving[to];
      leaving[from] += high;
      arriving[to] += low;
      if (count < least) return;
      const [x, end] = [a.x + BLOCK, b.x];
      const middle = (x + end) / 2;
      const d = `M${x} ${f(y)}C${middle} ${f(y)} ${middle} ${f(z)} ${end} ${f(z)}V${f(z + low)}C${middle} ${f(z + low)} ${middle} ${f(y + high)} ${x} ${f(y + high)}z`;
      paths.push(shape("path", { d, class: a.colour }));
    });
    this.bands[at].replaceChildren(...paths);
  }
}

/** @param {number} value */
const f = (value) => value.toFixed(1);

/**
 * @param {ArrayLike<number>} column
 * @param {number} k
 */
function all(column, k) {
  const found = new Int32Array(k);
  for (let i = 0; i < column.length; i++) found[column[i]]++;
  return found;
}

/**
 * @param {ArrayLike<number>} column
 * @param {number} k
 * @param {Int32Array} rows
 */
function selected(column, k, rows) {
  const found = new Int32Array(k);
  for (let i = 0; i < rows.length; i++) found[column[rows[i]]]++;
  return found;
}

/**
 * Sums of the rows of a matrix.
 * @param {Int32Array} pairs
 * @param {number} height
 * @param {number} width
 */
const sums = (pairs, height, width) => Array.from({ length: height }, (_, row) => pairs.subarray(row * width, (row + 1) * width).reduce((a, b) => a + b, 0));
