// @ts-check
// The large map: pan, zoom, lasso, hover and keys. It draws what it is given and reports what was done to it.

import { badge } from "./map_badges.js";
import { draw, radiusFor } from "./map_draw.js";

const MOST_PIXELS = 2.6e6; // of the picture; beyond, it is drawn coarser
const SLOW = 26; // ms per picture: while moving, only some of the points are drawn then
const NEAR = 14; // CSS pixels
const CORNERS = 60;

/** @type {WeakMap<Float32Array, {x: number, y: number, width: number, height: number}>} */
const extents = new WeakMap();

/**
 * Middle and size of a map with all its points.
 * @param {Float32Array} points
 */
export function extent(points) {
  const known = extents.get(points);
  if (known) return known;
  const axes = [0, 1].map((axis) => {
    let [low, high] = [Infinity, -Infinity];
    for (let i = axis; i < points.length; i += 2) {
      if (points[i] < low) low = points[i];
      if (points[i] > high) high = points[i];
    }
    return { middle: (low + high) / 2 || 0, length: high - low || 0 };
  });
  const [width, height] = [axes[0].length || axes[1].length || 1, axes[1].length || axes[0].length || 1];
  const found = { x: axes[0].middle, y: axes[1].middle, width, height };
  extents.set(points, found);
  return found;
}

/**
 * @param {Float32Array} points
 * @param {number} width
 * @param {number} height
 */
export function fitted(points, width, height) {
  const { x, y, width: w, height: h } = extent(points);
  return { x, y, scale: 0.9 * Math.min(width / w, height / h) };
}

export class MapView extends EventTarget {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {SVGSVGElement} over
   */
  constructor(canvas, over) {
    super();
    this.canvas = canvas;
    this.over = over;
    /** @type {any} */
    this.what = null; // points, on, codes, palette, pale
    this.view = { x: 0, y: 0, scale: 1 };
    /** @type {number[][][]} */
    this.regions = []; // polygons that are selected by
    /** @type {import("./map_badges.js").Badge[]} */
    this.badges = [];
    this.mode = "move";
    this.cost = 0;
    this.seen = 0;
    this.waiting = 0;
    this.settling = 0;
    /** @type {number[][]} */
    this.line = []; // lasso while it is drawn, CSS pixels
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  /** @param {any} what */
  show(what) {
    const first = !this.what || this.what.points !== what.points;
    this.what = what;
    if (first) this.fit();
    else this.paint();
  }

  fit() {
    this.view = fitted(this.what.points, this.width, this.height);
    this.paint();
  }

  get width() {
    return this.canvas.clientWidth || 1;
  }

  get height() {
    return this.canvas.clientHeight || 1;
  }

  get ratio() {
    return Math.min(window.devicePixelRatio || 1, Math.sqrt(MOST_PIXELS / (this.width * this.height)));
  }

  resize() {
    if (!this.what) return;
    const [width, height] = [this.width * this.ratio, this.height * this.ratio].map(Math.round);
    if (this.canvas.width === width && this.canvas.height === height) return;
    if (!this.moved) this.view = fitted(this.what.points, this.width, this.height);
    this.paint();
  }

  /** Draw now. `moving`: more pictures follow soon. */
  paint(moving = false) {
    if (!this.what) return;
    const ratio = this.ratio;
    const [width, height] = [this.width * ratio, this.height * ratio].map(Math.round);
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const start = performance.now();
    const stride = moving && this.cost > SLOW ? Math.ceil(this.cost / SLOW) : 1;
    const view = { ...this.view, scale: this.view.scale * ratio };
    const radii = () => {
      const radius = radiusFor(width * height, this.seen || this.what.codes.length, ratio);
      return { radius: this.what.on && radius > 2 ? 1.2 * radius : radius, small: Math.min(radius, radiusFor(width * height, this.what.codes.length, ratio)) };
    };
    const before = this.seen;
    this.seen = draw(this.canvas, { ...this.what, view, stride, ...radii() });
    if (!moving && Math.abs(Math.log((this.seen + 1) / (before + 1))) > 0.4) draw(this.canvas, { ...this.what, view, ...radii() }); // far more or fewer
    if (stride === 1) this.cost = performance.now() - start;
    this.write(ratio);
    this.outline();
    if (moving) {
      window.clearTimeout(this.settling);
      this.settling = window.setTimeout(() => this.paint(), 140);
    }
  }

  /** Draw with the next frame, as a part of a movement. */
  soon() {
    this.moved = true;
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      this.paint(true);
    });
  }

  /**
   * The clusters' numbers where they lie.
   * @param {number} ratio
   */
  write(ratio) {
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    if (!this.badges.length) return;
    const style = getComputedStyle(this.canvas);
    const look = { card: style.getPropertyValue("--card"), font: style.fontFamily };
    for (const one of this.badges) {
      const [px, py] = this.at(one.x, one.y);
      badge(context, one, px * ratio, py * ratio, ratio, look);
    }
  }

  /**
   * From coordinates to CSS pixels.
   * @param {number} x
   * @param {number} y
   */
  at(x, y) {
    return [this.width / 2 + (x - this.view.x) * this.view.scale, this.height / 2 - (y - this.view.y) * this.view.scale];
  }

  /**
   * And back.
   * @param {number} px
   * @param {number} py
   */
  from(px, py) {
    return [this.view.x + (px - this.width / 2) / this.view.scale, this.view.y - (py - this.height / 2) / this.view.scale];
  }

  outline() {
    const shapes = this.regions.map((corners) => corners.map(([x, y]) => this.at(x, y)));
    if (this.line.length > 1) shapes.push(this.line);
    const cross = document.activeElement === this.canvas && this.keyed;
    this.over.replaceChildren(
      ...shapes.map((corners) => shape("polygon", { points: corners.map((one) => one.map((v) => v.toFixed(1)).join()).join(" ") })),
      ...(cross ? [shape("path", { d: `M${this.width / 2 - 9} ${this.height / 2}h18M${this.width / 2} ${this.height / 2 - 9}v18` })] : []),
    );
  }

  /**
   * The selected example that is nearest to a place, in CSS pixels; -1: none is near.
   * @param {number} px
   * @param {number} py
   * @param {number} near
   */
  nearest(px, py, near = NEAR) {
    const [x, y] = this.from(px, py);
    const { points, on } = this.what;
    let [found, least] = [-1, (near / this.view.scale) ** 2];
    for (let i = 0; i < points.length; i += 2) {
      const distance = (points[i] - x) ** 2 + (points[i + 1] - y) ** 2;
      if (distance < least && (on === null || on[i >> 1])) [found, least] = [i >> 1, distance];
    }
    return found;
  }

  /**
   * @param {number} factor
   * @param {number} px stays where it is
   * @param {number} py
   */
  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = this.from(px, py);
    const least = 0.3 * fitted(this.what.points, this.width, this.height).scale;
    const scale = Math.min(Math.max(this.view.scale * factor, least), least * 1e5);
    this.view = { x: x - (px - this.width / 2) / scale, y: y + (py - this.height / 2) / scale, scale };
    this.soon();
  }

  /**
   * @param {number} dx CSS pixels
   * @param {number} dy
   */
  pan(dx, dy) {
    this.view = { ...this.view, x: this.view.x - dx / this.view.scale, y: this.view.y + dy / this.view.scale };
    this.soon();
  }

  /** The corners of what is shown. */
  visible() {
    return [[0, 0], [this.width, 0], [this.width, this.height], [0, this.height]].map(([x, y]) => this.from(x, y));
  }

  listen() {
    const canvas = this.canvas;
    const place = (/** @type {MouseEvent} */ event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("wheel", (event) => {
      if (!this.what) return;
      event.preventDefault();
      const [px, py] = place(event);
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), px, py);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.what || event.button) return;
      canvas.setPointerCapture(event.pointerId);
      const [px, py] = place(event);
      this.pointers.set(event.pointerId, [px, py]);
      this.start = [px, py];
      this.still = this.pointers.size === 1;
      this.keyed = false;
      if (event.pointerType === "touch") this.emit("hover", { row: -1 });
      this.drawing = this.pointers.size === 1 && (this.mode === "lasso" || event.shiftKey);
      this.line = this.drawing ? [[px, py]] : [];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.what) return;
      const [px, py] = place(event);
      const before = this.pointers.get(event.pointerId);
      if (!before) {
        this.hover(px, py);
        return;
      }
      this.still &&= this.isNear(px, py);
      if (this.pointers.size === 2) this.pinch(event.pointerId, px, py);
      else if (this.drawing) {
        this.line.push([px, py]);
        this.outline();
      } else this.pan(px - before[0], py - before[1]);
      this.pointers.set(event.pointerId, [px, py]);
    });
    canvas.addEventListener("pointerup", (event) => {
      const [px, py] = place(event);
      if (!this.pointers.delete(event.pointerId) || !this.start) return;
      if (this.still && this.isNear(px, py)) this.emit("open", { row: this.nearest(px, py), event });
      else if (this.drawing && this.line.length > 3) this.select(this.line.map(([x, y]) => this.from(x, y)));
      this.line = [];
      this.drawing = false;
      this.outline();
    });
    canvas.addEventListener("pointercancel", (event) => {
      this.pointers.delete(event.pointerId);
      this.line = [];
      this.outline();
    });
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.emit("hover", { row: -1 }); // a finger leaves with every tap
    });
    canvas.addEventListener("blur", () => this.what && this.outline());
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /**
   * Whether a pointer is about where it was pressed: a click, by a hand that is not quite still.
   * @param {number} px
   * @param {number} py
   */
  isNear(px, py) {
    const [x, y] = this.start ?? [0, 0];
    return Math.hypot(px - x, py - y) < 4;
  }

  /**
   * @param {number} id
   * @param {number} px
   * @param {number} py
   */
  pinch(id, px, py) {
    const [other] = [...this.pointers].filter(([one]) => one !== id).map(([, at]) => at);
    const before = this.pointers.get(id);
    this.pan((px - before[0]) / 2, (py - before[1]) / 2);
    const factor = Math.hypot(px - other[0], py - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1]));
    this.zoom(factor, (px + other[0]) / 2, (py + other[1]) / 2);
  }

  /**
   * @param {number} px
   * @param {number} py
   */
  hover(px, py) {
    this.hovered = [px, py];
    this.looking ||= requestAnimationFrame(() => {
      this.looking = 0;
      const [x, y] = this.hovered ?? [0, 0];
      this.emit("hover", { row: this.nearest(x, y) });
    });
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (!this.what || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    this.keyed = true;
    if (move) this.pan(move[0], move[1]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.3);
    else if (event.key === "-") this.zoom(1 / 1.3);
    else if (event.key === "0") this.fit();
    else if (event.key === "v" || event.key === "V") this.select(this.visible());
    else if (event.key === "l" || event.key === "L") this.emit("mode", { mode: "lasso" });
    else if (event.key === "m" || event.key === "M") this.emit("mode", { mode: "move" });
    else if (event.key === "Enter") this.emit("open", { row: this.nearest(this.width / 2, this.height / 2, 1e4), event });
    else return;
    event.preventDefault();
    if (event.key !== "Enter") window.setTimeout(() => this.emit("hover", { row: this.nearest(this.width / 2, this.height / 2, 80) }), 30);
  }

  /** @param {number[][]} corners */
  select(corners) {
    this.emit("lasso", { corners: simplified(corners) });
  }

  /**
   * @param {string} name
   * @param {any} detail
   */
  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/**
 * At most CORNERS of a line's points: those that change its area least are left out (Visvalingam and Whyatt, 1993).
 * @param {number[][]} line
 */
function simplified(line) {
  let left = line.length > 600 ? line.filter((_, i) => i % Math.ceil(line.length / 600) === 0) : line.slice();
  const area = (/** @type {number} */ i) => {
    const [[ax, ay], [bx, by], [cx, cy]] = [left.at(i - 1), left[i], left[(i + 1) % left.length]].map((p) => p ?? [0, 0]);
    return Math.abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay));
  };
  while (left.length > CORNERS) {
    let least = 0;
    for (let i = 1; i < left.length; i++) if (area(i) < area(least)) least = i;
    left = left.toSpliced(least, 1);
  }
  return left;
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 */
export function shape(name, attributes) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, String(value));
  return found;
}
