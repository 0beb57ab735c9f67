// @ts-check
// One histogram with a brush, and both ends as fields: the same filter by mouse and by keyboard. The fields need no values.

import { ends } from "./map_selection.js";
import { shape } from "./map_view.js";

const BINS = 48;
const [WIDTH, HEIGHT] = [240, 64];

/** @param {number} value */
export const short = (value) => String(Number(value.toPrecision(4)));

export class Histogram {
  /**
   * @param {object} of
   * @param {string} of.title
   * @param {string} of.name of the filter
   * @param {string} [of.layer]
   * @param {import("./map_selection.js").Selection} of.selection
   * @param {(error: Error) => void} of.failed
   */
  constructor({ title, name, layer, selection, failed }) {
    this.name = name;
    this.layer = layer;
    this.selection = selection;
    this.waiting = 0;
    /** @type {[number, number] | undefined} */
    this.next = undefined; // ends of the brush, until they are a filter
    this.failed = failed;
    this.key = layer === undefined ? name : `${name}:${layer}`;
    [this.low, this.high] = [0, 0];
    /** @type {Uint8Array | undefined} */
    this.bins = undefined;
    this.most = 1; // examples in a bin
    /** @type {Set<HTMLInputElement>} */
    this.typing = new Set(); // fields with what is not a filter yet
    this.element = document.createElement("div");
    this.element.className = "map-range";
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", title);
    const head = document.createElement("p");
    head.textContent = title;
    this.reset = document.createElement("button");
    this.reset.type = "button";
    this.reset.textContent = "×";
    this.reset.setAttribute("aria-label", `without the filter ${title}`);
    this.reset.addEventListener("click", () => {
      this.set(-Infinity, Infinity);
      this.from.focus(); // as the button goes
    });
    head.append(this.reset);
    this.svg = /** @type {SVGSVGElement} */ (shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }));
    this.pale = shape("path", { class: "all" });
    this.solid = shape("path", { class: "some" });
    this.brush = shape("rect", { class: "brush", y: 0, height: HEIGHT, width: 0 });
    this.svg.append(this.pale, this.solid, this.brush);
    const fields = document.createElement("div");
    fields.className = "map-ends";
    [this.from, this.to] = ["from", "to"].map((word) => {
      const field = document.createElement("input");
      field.inputMode = "decimal";
      field.setAttribute("aria-label", `${title} ${word}`);
      field.addEventListener("input", () => this.typing.add(field));
      field.addEventListener("change", () => {
        this.typing.delete(field);
        this.typed();
      });
      field.addEventListener("blur", () => this.typing.delete(field));
      fields.append(field);
      return field;
    });
    this.element.append(head, this.svg, fields);
    this.listen();
    this.update();
  }

  /**
   * The histogram of all examples.
   * @param {ArrayLike<number>} column
   */
  fill(column) {
    [this.low, this.high] = bounds(column);
    this.bins = binned(column, this.low, this.high);
    const all = new Int32Array(BINS + 1);
    for (const bin of this.bins) all[bin]++;
    this.most = Math.max(...all.subarray(0, BINS));
    this.pale.setAttribute("d", bars(all, this.most));
    [this.from.placeholder, this.to.placeholder] = [this.low, this.high].map((end) => String(Number(end.toPrecision(3))));
  }

  get ends() {
    const [value] = this.selection.values(this.name, this.layer);
    return value ? ends(value.slice(value.lastIndexOf(":") + 1)) : undefined;
  }

  /** The selected examples, once all are there. */
  draw() {
    if (!this.bins) return;
    this.solid.setAttribute("d", bars(this.selection.counts(this.bins, BINS + 1, this.key), this.most));
    const [low, high] = this.ends ?? [-Infinity, Infinity];
    const [left, right] = [this.place(Math.max(low, this.low)), this.place(Math.min(high, this.high))];
    this.brush.setAttribute("x", String(left));
    this.brush.setAttribute("width", String(this.ends ? Math.max(right - left, 1) : 0));
  }

  /**
   * The fields.
   * @param {boolean} [all] also one that is being typed in
   */
  update(all = false) {
    const [low, high] = this.ends ?? [-Infinity, Infinity];
    this.reset.hidden = !this.ends;
    if (all) this.typing.clear();
    for (const [field, end] of /** @type {[HTMLInputElement, number][]} */ ([[this.from, low], [this.to, high]])) {
      if (this.typing.has(field)) continue;
      field.value = Number.isFinite(end) ? String(end) : "";
      field.removeAttribute("aria-invalid");
    }
  }

  /** @param {number} value */
  place(value) {
    return this.high > this.low ? ((value - this.low) / (this.high - this.low)) * WIDTH : value > this.high ? WIDTH : 0;
  }

  listen() {
    /** @type {number | null} */
    let start = null;
    const value = (/** @type {PointerEvent} */ event) => {
      const box = this.svg.getBoundingClientRect();
      const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
      return this.low + share * (this.high - this.low);
    };
    this.svg.addEventListener("pointerdown", (event) => {
      if (event.button || !this.bins) return;
      this.svg.setPointerCapture(event.pointerId);
      start = value(event);
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const now = value(event);
      if (Math.abs(this.place(now) - this.place(start)) < 2) return;
      this.soon(Math.min(start, now), Math.max(start, now));
    });
    const stop = (/** @type {PointerEvent} */ event) => {
      if (start === null) return;
      if (event.type === "pointerup" && Math.abs(this.place(value(event)) - this.place(start)) < 2) this.next = [-Infinity, Infinity];
      start = null;
      this.brushed(false);
    };
    this.svg.addEventListener("pointerup", stop);
    this.svg.addEventListener("pointercancel", stop);
  }

  /**
   * With the next frame; only the last of several is done.
   * @param {number} low
   * @param {number} high
   */
  soon(low, high) {
    this.next = [low, high];
    this.waiting ||= requestAnimationFrame(() => this.brushed(true));
  }

  /**
   * Where the brush is.
   * @param {boolean} moving
   */
  brushed(moving) {
    window.cancelAnimationFrame(this.waiting);
    this.waiting = 0;
    if (this.next) {
      const [from, to] = this.next;
      // the outermost values are open ends, so that rounding excludes no example
      this.set(from <= this.low ? -Infinity : from, to >= this.high ? Infinity : to, short, moving);
    } else this.selection.finish().catch(this.failed);
    this.next = undefined;
  }

  typed() {
    const [low, high] = [this.from, this.to].map((field) => field.value.trim().replace(",", "."));
    const wrong = [low, high].map((one) => one !== "" && !Number.isFinite(Number(one)));
    const turned = low !== "" && high !== "" && Number(low) > Number(high);
    this.from.setAttribute("aria-invalid", String(wrong[0] || turned));
    this.to.setAttribute("aria-invalid", String(wrong[1] || turned));
    if (!wrong.includes(true) && !turned) this.set(low === "" ? -Infinity : Number(low), high === "" ? Infinity : Number(high), String);
  }

  /**
   * @param {number} low
   * @param {number} high
   * @param {(end: number) => string} written of a brush, about as exact as a pixel
   * @param {boolean} [moving]
   */
  set(low, high, written = short, moving = false) {
    const text = (/** @type {number} */ end) => (Number.isFinite(end) ? written(end) : "");
    const value = Number.isFinite(low) || Number.isFinite(high) ? [`${this.layer === undefined ? "" : `${this.layer}:`}${text(low)}..${text(high)}`] : [];
    this.selection.set(this.name, value, this.layer, moving).catch(this.failed);
  }
}

/** @param {ArrayLike<number>} column */
function bounds(column) {
  let [low, high] = [Infinity, -Infinity];
  for (let i = 0; i < column.length; i++) {
    if (column[i] < low) low = column[i];
    if (column[i] > high) high = column[i];
  }
  return low <= high ? [low, high] : [0, 0];
}

/**
 * Bin of each value; BINS: not known.
 * @param {ArrayLike<number>} column
 * @param {number} low
 * @param {number} high
 */
function binned(column, low, high) {
  const step = high > low ? BINS / (high - low) : 0;
  return Uint8Array.from(column, (value) => (Number.isNaN(value) ? BINS : Math.min(BINS - 1, Math.floor((value - low) * step))));
}

/**
 * @param {Int32Array} counts
 * @param {number} most
 */
function bars(counts, most) {
  const width = WIDTH / BINS;
  let path = "";
  for (let i = 0; i < BINS; i++) {
    if (!counts[i]) continue;
    const height = Math.max(1, (HEIGHT * counts[i]) / Math.max(most, 1));
    path += `M${(i * width).toFixed(1)} ${HEIGHT}v${-height.toFixed(1)}h${(width - 0.6).toFixed(1)}v${height.toFixed(1)}z`;
  }
  return path;
}
