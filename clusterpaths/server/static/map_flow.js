// @ts-check
// The routes of the selection as a small Sankey: all clusters as blocks, filled by the share that is selected, and the
// selection's bands between neighbouring layers.

import { marks } from "./map_panel.js";
import { shape } from "./map_view.js";

const [HEIGHT, BLOCK, COLUMN, TOP] = [220, 22, 190, 22];
const BANDS = 120; // largest ones

export class Flow {
  /**
   * @param {HTMLElement} box
   * @param {import("./map_data.js").Data} data
   * @param {import("./map_selection.js").Selection} selection
   * @param {any} start
   * @param {(error: Error) => void} failed
   */
  constructor(box, data, selection, start, failed) {
    this.selection = selection;
    this.start = start;
    this.layers = data.info.layers;
    this.columns = this.layers.map((one) => data.now(`cluster:${one.name}`));
    this.width = Math.max(BLOCK, COLUMN * (this.layers.length - 1) + BLOCK);
    this.svg = /** @type {SVGSVGElement} */ (shape("svg", { viewBox: `-30 0 ${this.width + 60} ${HEIGHT + TOP + 6}`, class: "map-routes", role: "group", "aria-label": "Clusters of each layer" }));
    this.bands = shape("g", { class: "bands", "aria-hidden": "true" });
    this.svg.append(this.bands);
    const sums = this.layers.map((one, at) => all(this.columns[at], one.k));
    this.blocks = this.layers.map((layer, at) => {
      const name = shape("text", { x: at * COLUMN + BLOCK / 2, y: 13, class: "name" });
      name.textContent = layer.name.length > 20 ? `${layer.name.slice(0, 19)}…` : layer.name;
      this.svg.append(name);
      const gap = Math.min(4, 60 / layer.k);
      const least = Math.min(1.5, 60 / layer.k); // of a block: small clusters can be seen and chosen, too
      const used = sums[at].filter((sum) => sum > 0).length;
      const free = HEIGHT - gap * (layer.k - 1) - least * used;
      let y = TOP;
      return Array.from({ length: layer.k }, (_, c) => {
        const height = sums[at][c] && least + (free * sums[at][c]) / data.n;
        const block = this.block(at, c, y, height, sums[at][c], failed);
        y += height + gap;
        return block;
      });
    });
    box.replaceChildren(this.svg);
    this.update();
  }

  /**
   * @param {number} at layer
   * @param {number} cluster
   * @param {number} y
   * @param {number} height
   * @param {number} total
   * @param {(error: Error) => void} failed
   */
  block(at, cluster, y, height, total, failed) {
    const layer = this.layers[at].name;
    const colour = marks(this.start, at, cluster);
    const group = shape("g", { tabindex: total ? 0 : -1, role: "button", class: "block", "data-cluster": `${layer}:${cluster}` });
    const x = at * COLUMN;
    const fill = shape("rect", { x, width: BLOCK, class: `${colour} part` });
    const title = shape("title", {});
    const number = shape("text", { x: x - 6, y: y + height / 2 + 4, class: "number" });
    number.textContent = height > 9 ? String(cluster) : "";
    group.append(shape("rect", { x, y, width: BLOCK, height, class: `${colour} whole` }), fill, shape("rect", { x, y, width: BLOCK, height, class: "edge" }), number, title);
    const choose = () => this.selection.toggle("cluster", `${layer}:${cluster}`, layer).catch(failed);
    group.addEventListener("click", choose);
    group.addEventListener("keydown", (event) => {
      if (!["Enter", " "].includes(/** @type {KeyboardEvent} */ (event).key)) return;
      event.preventDefault();
      choose();
    });
    if (total) this.svg.append(group);
    return { group, fill, title, y, height, total, colour, x, name: this.start.names[at]?.[cluster] };
  }

  update() {
    const { rows } = this.selection;
    const last = this.layers.length - 1;
    const pairs = this.layers.slice(0, last).map((_, at) => this.pairs(at, rows));
    const counts = this.layers.map((one, at) => (at < last ? sums(pairs[at], one.k, this.layers[at + 1].k) : selected(this.columns[at], one.k, rows)));
    this.blocks.forEach((blocks, at) =>
      blocks.forEach((block, c) => {
        const share = block.total ? counts[at][c] / block.total : 0;
        const height = block.height * share;
        block.fill.setAttribute("y", String(block.y + block.height - height));
        block.fill.setAttribute("height", String(height));
        const layer = this.layers[at].name;
        const text = `${layer} cluster ${c}${block.name ? ` (${block.name})` : ""}: ${counts[at][c].toLocaleString("en")} of ${block.total.toLocaleString("en")} examples selected`;
        block.title.textContent = text;
        block.group.setAttribute("aria-label", text);
        block.group.setAttribute("aria-pressed", String(this.selection.values("cluster", layer).includes(`${layer}:${c}`)));
      }),
    );
    this.draw(pairs);
  }

  /**
   * How many of these rows go from each cluster of a layer to each of the next.
   * @param {number} at
   * @param {Int32Array} rows
   */
  pairs(at, rows) {
    const [left, right, k] = [this.columns[at], this.columns[at + 1], this.layers[at + 1].k];
    const found = new Int32Array(this.layers[at].k * k);
    for (let i = 0; i < rows.length; i++) found[left[rows[i]] * k + right[rows[i]]]++;
    return found;
  }

  /** @param {Int32Array[]} pairs */
  draw(pairs) {
    /** @type {{at: number, from: number, to: number, count: number}[]} */
    const found = [];
    pairs.forEach((counts, at) => {
      const { k } = this.layers[at + 1];
      counts.forEach((count, code) => count && found.push({ at, from: Math.floor(code / k), to: code % k, count }));
    });
    const least = found.length > BANDS ? found.map((one) => one.count).sort((a, b) => b - a)[BANDS] : 0;
    const used = this.blocks.map((blocks) => blocks.map(() => [0, 0])); // of each block: to the left, to the right
    const paths = [];
    for (const { at, from, to, count } of found) {
      const [a, b] = [this.blocks[at][from], this.blocks[at + 1][to]];
      const [high, low] = [(a.height * count) / a.total, (b.height * count) / b.total];
      const y = a.y + used[at][from][1];
      const z = b.y + used[at + 1][to][0];
      used[at][from][1] += high;
      used[at + 1][to][0] += low;
      if (count < least) continue;
      const [x, end] = [a.x + BLOCK, b.x];
      const middle = (x + end) / 2;
      const d = `M${x} ${f(y)}C${middle} ${f(y)} ${middle} ${f(z)} ${end} ${f(z)}V${f(z + low)}C${middle} ${f(z + low)} ${middle} ${f(y + high)} ${x} ${f(y + high)}z`;
      paths.push(shape("path", { d, class: a.colour }));
    }
    this.bands.replaceChildren(...paths);
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
