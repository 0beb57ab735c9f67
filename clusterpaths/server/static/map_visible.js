// @ts-check
// What is near the screen is loaded, and what is on it is drawn when the selection changes, so that a set may have a hundred layers.

const NEAR = "200px";

/** @typedef {{load: () => Promise<unknown>, draw: () => void, text: boolean, seen: boolean, asked: boolean, here: boolean, stale: boolean}} View */

export class Visible {
  /** @param {(error: Error) => void} failed */
  constructor(failed) {
    this.failed = failed;
    /** @type {Map<Element, View>} */
    this.views = new Map();
    const watch = (/** @type {(view: View, there: boolean) => void} */ report, /** @type {string} */ rootMargin) =>
      new IntersectionObserver((entries) => entries.forEach((one) => report(/** @type {View} */ (this.views.get(one.target)), one.isIntersecting)), { rootMargin });
    this.near = watch((view, there) => there && this.load(view), NEAR);
    this.on = watch((view, there) => {
      view.seen = there;
      this.drawIf((one) => one === view && one.seen && one.stale);
    }, "0px");
    window.addEventListener("beforeprint", () => this.drawIf((view) => view.stale));
  }

  /**
   * @param {Element} element whose place decides
   * @param {object} view
   * @param {() => Promise<unknown>} [view.load] what it needs; once
   * @param {() => void} view.draw
   * @param {boolean} [view.text] it has text for screen readers, which read what is not on the screen, too
   */
  add(element, { load = async () => {}, draw, text = false }) {
    this.views.set(element, { load, draw, text, seen: false, asked: false, here: false, stale: true });
    this.near.observe(element);
    this.on.observe(element);
  }

  /** @param {View} view */
  load(view) {
    if (view.asked) return;
    view.asked = true;
    view.load().then(
      () => {
        view.here = true;
        this.drawIf((one) => one === view);
      },
      (error) => {
        view.asked = false; // again when it is near again
        this.failed(error);
      },
    );
  }

  /** Something has changed that all views show. */
  update() {
    for (const view of this.views.values()) view.stale = true;
    this.drawIf((view) => view.seen);
  }

  /** The text of the others follows once a change is finished. */
  finish() {
    this.drawIf((view) => view.text && view.stale);
  }

  /** @param {(view: View) => boolean} wanted of those that have been loaded */
  drawIf(wanted) {
    for (const view of this.views.values()) {
      if (!view.here || !wanted(view)) continue;
      view.stale = false;
      view.draw();
    }
  }
}
