// @ts-check
// One small map per layer, which is shown large when it is chosen.

import { draw, radiusFor } from "./map_draw.js";
import { element } from "./map_panel.js";
import { fitted } from "./map_view.js";

export class SmallMaps {
  /**
   * @param {HTMLElement} list
   * @param {import("./map_data.js").Data} data
   * @param {import("./map_visible.js").Visible} visible
   * @param {(layer: string) => any} what is drawn: points, on, codes, palette, pale, and how many are selected
   * @param {(layer: string) => void} choose
   */
  constructor(list, data, visible, what, choose) {
    this.data = data;
    this.maps = data.info.layers.map(({ name }) => {
      const canvas = /** @type {HTMLCanvasElement} */ (element("canvas", { "aria-hidden": "true" }));
      const here = element("i", { class: "map-here", hidden: "" });
      const button = element("button", { type: "button", "data-layer": name }, canvas, here, element("span", {}, name));
      button.addEventListener("click", () => choose(name));
      return { name, canvas, here, button };
    });
    list.replaceChildren(...this.maps.map((one) => element("li", {}, one.button)));
    for (const { name, canvas, button } of this.maps)
      visible.add(button, { load: () => data.points(name), draw: () => paint(canvas, what(name), data.n) });
    new ResizeObserver(() => visible.update()).observe(list);
  }

  /** @param {string} layer that is shown large */
  press(layer) {
    for (const { name, button } of this.maps) button.setAttribute("aria-pressed", String(name === layer));
  }

  /**
   * Where an example lies, on those that have been seen.
   * @param {number} row -1: none
   */
  mark(row) {
    for (const { name, canvas, here } of this.maps) {
      const points = this.data.now(`points of ${name}`);
      if (!points) continue;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      const { x, y, scale } = fitted(points, width, height);
      const [left, top] = row < 0 ? [-1, -1] : [width / 2 + (points[2 * row] - x) * scale, height / 2 - (points[2 * row + 1] - y) * scale];
      here.hidden = !(left >= 0 && top >= 0 && left <= width && top <= height);
      here.style.left = `${left}px`;
      here.style.top = `${top}px`;
    }
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {any} what
 * @param {number} n
 */
function paint(canvas, what, n) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((length) => Math.max(1, Math.round(length * ratio)));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const radius = (/** @type {number} */ most, /** @type {number} */ points) => Math.min(most * ratio, radiusFor(width * height, points, ratio));
  draw(canvas, { ...what, view: fitted(what.points, width, height), radius: radius(1.8, what.count), small: radius(1.2, n) });
}
