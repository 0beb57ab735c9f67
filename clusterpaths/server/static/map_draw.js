// @ts-check
// Points to pixels: how many selected points of which colour lie in each pixel, and how many others. Colours are the mean of the
// points' colours, opacity grows with the logarithm of their number, so that single points and dense regions both show.

const STEPS = 1024; // of opacity, eight per point

/** @typedef {{x: number, y: number, scale: number}} View centre of the picture, and pixels per unit */

/** One buffer for all pictures of a page: they are drawn one after the other. */
let sums = new Float32Array(0);
let others = new Float32Array(0);
const opacity = new Float32Array(STEPS);
const faint = new Float32Array(STEPS); // of those not selected

/**
 * @param {HTMLCanvasElement} canvas its width and height are in device pixels
 * @param {object} what
 * @param {Float32Array} what.points (n, 2)
 * @param {Uint8Array | null} what.on (n,) 1: selected; null: all
 * @param {Uint32Array} what.codes (n,) place in the palette
 * @param {number[][]} what.palette red, green, blue
 * @param {number[]} what.pale colour of those not selected
 * @param {View} what.view
 * @param {number} what.radius of a selected point, pixels
 * @param {number} [what.small] of the others
 * @param {number} [what.stride] draw each n-th point only
 * @returns {number} selected points in the picture
 */
export function draw(canvas, { points, on, codes, palette, pale, view, radius, small = radius, stride = 1 }) {
  const margin = Math.ceil(Math.max(radius, small)) + 1;
  const [width, height] = [canvas.width, canvas.height];
  const across = width + 2 * margin;
  const size = across * (height + 2 * margin);
  if (sums.length < 4 * size) {
    sums = new Float32Array(4 * size);
    others = new Float32Array(size);
  }
  sums.fill(0, 0, 4 * size);
  if (on) others.fill(0, 0, size);
  const discs = [disc(radius, across), disc(small, across)];
  const seen = gather(projected(canvas, points, view, margin, across), on, codes, palette, discs, stride);
  compose(canvas, pale, on !== null, margin, across, stride);
  return seen;
}

/** @type {WeakMap<HTMLCanvasElement, {key: unknown[], cells: Int32Array}>} */
const known = new WeakMap();

/**
 * The cell of each point, -1 outside of the picture; the same array while only the selection or the colours change.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} points
 * @param {View} view
 * @param {number} margin
 * @param {number} across
 */
function projected(canvas, points, view, margin, across) {
  const { width, height } = canvas;
  const { scale } = view;
  const key = [points, view.x, view.y, scale, width, height, margin];
  const found = known.get(canvas);
  if (found && key.every((one, i) => one === found.key[i])) return found.cells;
  const cells = found?.cells.length === points.length / 2 ? found.cells : new Int32Array(points.length / 2);
  const left = width / 2 - view.x * scale + margin;
  const top = height / 2 + view.y * scale + margin;
  const reach = margin - 1;
  const right = width + 2 * margin - 1 - reach;
  const bottom = height + 2 * margin - 1 - reach;
  for (let i = 0; i < cells.length; i++) {
    const x = left + points[2 * i] * scale;
    const y = top - points[2 * i + 1] * scale;
    cells[i] = x > reach && y > reach && x < right && y < bottom ? (y | 0) * across + (x | 0) : -1;
  }
  known.set(canvas, { key, cells });
  return cells;
}

/**
 * @param {Int32Array} places of the points
 * @param {Uint8Array | null} on
 * @param {Uint32Array} codes
 * @param {number[][]} palette
 * @param {{offsets: Int32Array, weights: Float32Array}[]} discs of the selected points, of the others
 * @param {number} stride
 */
function gather(places, on, codes, palette, [{ offsets, weights }, other], stride) {
  const flat = Float32Array.from(palette.flat());
  const cells = offsets.length;
  const { offsets: offsets2, weights: weights2 } = other;
  const cells2 = offsets2.length;
  const n = codes.length;
  let seen = 0;
  for (let i = 0; i < n; i += stride) {
    const at = places[i];
    if (at < 0) continue;
    if (on !== null && on[i] === 0) {
      for (let c = 0; c < cells2; c++) others[at + offsets2[c]] += weights2[c];
      continue;
    }
    seen++;
    const colour = 3 * codes[i];
    const red = flat[colour];
    const green = flat[colour + 1];
    const blue = flat[colour + 2];
    for (let c = 0; c < cells; c++) {
      const w = weights[c];
      const p = 4 * (at + offsets[c]);
      sums[p] += w * red;
      sums[p + 1] += w * green;
      sums[p + 2] += w * blue;
      sums[p + 3] += w;
    }
  }
  return seen * stride;
}

/** @type {WeakMap<HTMLCanvasElement, ImageData>} used again: megabytes per picture of a brush would be collected as garbage meanwhile */
const images = new WeakMap();

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} pale
 * @param {boolean} both
 * @param {number} margin
 * @param {number} across
 * @param {number} stride
 */
function compose(canvas, pale, both, margin, across, stride) {
  const { width, height } = canvas;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true })); // in memory: its pixels are written here, not by a graphics card
  let image = images.get(canvas);
  if (image?.width !== width || image.height !== height) images.set(canvas, (image = context.createImageData(width, height)));
  const pixels = new Uint32Array(image.data.buffer); // little-endian, as all browsers are
  pixels.fill(0);
  const place = (/** @type {number} */ row) => (row + margin) * across + margin;
  let [filled, total, filled2, total2] = [0, 0, 0, 0];
  for (let row = 0; row < height; row += 3) {
    for (let p = place(row), end = p + width; p < end; p += 3) {
      const weight = sums[4 * p + 3];
      if (weight > 0) [filled, total] = [filled + 1, total + weight];
      if (both && others[p] > 0) [filled2, total2] = [filled2 + 1, total2 + others[p]];
    }
  }
  tone(opacity, (stride * total) / Math.max(filled, 1));
  if (both) tone(faint, (stride * total2) / Math.max(filled2, 1));
  const paleness = (pale[2] << 16) | (pale[1] << 8) | pale[0];
  for (let row = 0; row < height; row++) {
    let p = place(row);
    for (let q = row * width, end = q + width; q < end; q++, p++) {
      const weight = sums[4 * p + 3];
      const under = both ? others[p] : 0;
      if (weight > 0) {
        const a = opacity[Math.min(STEPS - 1, (weight * stride * 8 + 0.5) | 0)];
        const b = under > 0 ? 0.32 * (1 - a) * faint[Math.min(STEPS - 1, (under * stride * 8 + 0.5) | 0)] : 0;
        const sum = a + b;
        const f = a / (weight * sum);
        const g = b / sum;
        pixels[q] =
          ((255 * sum) << 24) | ((sums[4 * p + 2] * f + pale[2] * g) << 16) | ((sums[4 * p + 1] * f + pale[1] * g) << 8) |
          (sums[4 * p] * f + pale[0] * g);
      } else if (under > 0) {
        pixels[q] = ((255 * 0.32 * faint[Math.min(STEPS - 1, (under * stride * 8 + 0.5) | 0)]) << 24) | paleness;
      }
    }
  }
  context.putImageData(image, 0, 0);
}

/**
 * Opacity by the number of points in a pixel: that of one point, then up to 1 by the logarithm.
 * @param {Float32Array} opacity
 * @param {number} mean points in a pixel that has any
 */
function tone(opacity, mean) {
  const least = Math.min(0.9, Math.max(0.4, 0.9 / Math.sqrt(Math.max(mean, 1))));
  const most = Math.log(Math.max(4, 5 * mean));
  for (let i = 0; i < STEPS; i++) {
    const weight = i / 8;
    opacity[i] = weight <= 1 ? least * weight : Math.min(1, least + (1 - least) * (Math.log(weight) / most));
  }
}

/**
 * The pixels that a point covers, by their distance from its middle.
 * @param {number} radius
 * @param {number} across
 */
function disc(radius, across) {
  const reach = Math.ceil(radius);
  const [offsets, weights] = [[0], [1]];
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const weight = Math.min(1, radius + 0.5 - Math.hypot(x, y));
      if ((x || y) && weight > 0.2) {
        offsets.push(y * across + x);
        weights.push(weight);
      }
    }
  }
  return { offsets: Int32Array.from(offsets), weights: Float32Array.from(weights) };
}

/**
 * Radius for so many points on so many pixels.
 * @param {number} pixels
 * @param {number} points
 * @param {number} ratio device pixels per CSS pixel
 */
export const radiusFor = (pixels, points, ratio) => Math.min(4 * ratio, Math.max(0.6, 0.3 * Math.sqrt(pixels / Math.max(points, 1))));
