// @ts-check
// The clusters' numbers on the map, each on the colour and pattern that it has on all pages: points of two clusters may have one
// colour, and points cannot have a pattern.

const CELLS = 32; // of a map's longer side, to find where most of a cluster's points are
const RADIUS = 10; // CSS pixels
const STRIPE = 5;

/** @typedef {{number: number, x: number, y: number, colour: number[], pattern: number}} Badge */

/** @type {WeakMap<Float32Array, {clusters: ArrayLike<number>, found: {number: number, x: number, y: number}[]}>} */
const known = new WeakMap();

/**
 * Where each cluster is: the middle of its points in that square of the map which has most of them. Its mean may be in another cluster.
 * @param {Float32Array} points (n, 2)
 * @param {ArrayLike<number>} clusters (n,)
 * @param {number} k
 * @param {{x: number, y: number, width: number, height: number}} extent of the points
 */
export function places(points, clusters, k, extent) {
  const before = known.get(points);
  if (before?.clusters === clusters) return before.found;
  const cell = Math.max(extent.width, extent.height) / CELLS;
  const [left, bottom] = [extent.x - (cell * CELLS) / 2, extent.y - (cell * CELLS) / 2];
  const at = (/** @type {number} */ value) => Math.min(CELLS - 1, Math.max(0, Math.floor(value / cell)));
  const sums = new Float64Array(3 * k * CELLS * CELLS); // x, y, points
  for (let i = 0; i < clusters.length; i++) {
    const place = 3 * ((clusters[i] * CELLS + at(points[2 * i + 1] - bottom)) * CELLS + at(points[2 * i] - left));
    sums[place] += points[2 * i];
    sums[place + 1] += points[2 * i + 1];
    sums[place + 2]++;
  }
  /** @type {{number: number, x: number, y: number}[]} */
  const found = [];
  for (let number = 0; number < k; number++) {
    let [most, best] = [0, -1];
    for (let place = 3 * number * CELLS * CELLS; place < 3 * (number + 1) * CELLS * CELLS; place += 3) if (sums[place + 2] > most) [most, best] = [sums[place + 2], place];
    if (best >= 0) found.push({ number, x: sums[best] / most, y: sums[best + 1] / most });
  }
  known.set(points, { clusters, found });
  return found;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Badge} badge
 * @param {number} x device pixels
 * @param {number} y
 * @param {number} ratio device pixels per CSS pixel
 * @param {{card: string, font: string}} style
 */
export function badge(context, { number, colour, pattern }, x, y, ratio, { card, font }) {
  const text = String(number);
  const half = (RADIUS + 3.5 * (text.length - 1)) * ratio;
  const [radius, stripe] = [RADIUS * ratio, STRIPE * ratio];
  const light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 100;
  context.save();
  context.beginPath();
  context.roundRect(x - half, y - radius, 2 * half, 2 * radius, radius);
  context.lineWidth = 4 * ratio;
  context.strokeStyle = card;
  context.stroke();
  context.fillStyle = `rgb(${colour})`;
  context.fill();
  context.clip();
  context.strokeStyle = context.fillStyle = light ? "rgb(255 255 255 / 0.6)" : "rgb(0 0 0 / 0.4)"; // as .chip of report.css
  context.lineWidth = 1.6 * ratio;
  context.beginPath();
  for (let step = -half - 2 * radius; step <= half + 2 * radius; step += stripe) {
    if (pattern === 1 || pattern === 2) {
      const lean = pattern === 1 ? -radius : radius;
      context.moveTo(x + step - lean, y - radius);
      context.lineTo(x + step + lean, y + radius);
    } else if (pattern === 4) {
      context.moveTo(x - half, y + step);
      context.lineTo(x + half, y + step);
    } else if (pattern === 3) for (let row = -radius; row <= radius; row += stripe) context.rect(x + step, y + row, ratio, ratio);
  }
  context.stroke();
  context.restore();
  context.font = `700 ${12 * ratio}px ${font}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = light ? "#000" : "#fff";
  context.fillText(text, x, y + 0.5 * ratio);
}
