// @ts-check
// The selection: filters as in the address (a Question), and which examples pass each of them. Every filter has a bit, so that
// a histogram can count the examples that pass all filters but its own; beyond 31 filters, the others share the last bit.

const ONE = ["right", "path", "ood", "confidence"];
const MANY = ["prediction", "label", "attribute", "split", "cluster", "distance", "within", "id"];
const ORDER = ["prediction", "label", "attribute", "split", "right", "path", "cluster", "ood", "confidence", "distance", "within", "id"];
const BANDS = 256; // of a polygon

const SHARED = (1 << 31) >>> 0;

/** @typedef {(row: number) => boolean} Test */
/** @typedef {{name: string, key: string, bit: number, values: string[], test: Test}} Filter */

export class Selection extends EventTarget {
  /** @param {import("./map_data.js").Data} data */
  constructor(data) {
    super();
    this.data = data;
    const n = data.n;
    this.fails = new Uint32Array(n);
    this.on = new Uint8Array(n).fill(1);
    this.count = n;
    this.room = Int32Array.from({ length: n }, (_, i) => i);
    /** @type {Map<string, Filter>} */
    this.filters = new Map();
    this.last = Promise.resolve();
  }

  /**
   * One change after the other, in the order in which they are asked for, although some wait for a column.
   * @param {() => unknown} step
   * @returns {Promise<void>}
   */
  inTurn(step) {
    const done = this.last.then(async () => void (await step()));
    this.last = done.catch(() => {}); // one that fails does not stop the next
    return done;
  }

  /** Whether there is a filter. */
  get any() {
    return this.filters.size > 0;
  }

  /** Rows that are selected, ascending. */
  get rows() {
    return this.room.subarray(0, this.count);
  }

  /**
   * Values of a filter.
   * @param {string} name
   * @param {string} [of] the layer or attribute, where each has a filter of its own
   */
  values(name, of) {
    return this.filters.get(of === undefined ? name : `${name}:${of}`)?.values ?? [];
  }

  /** The filters in the order of addresses. */
  get listed() {
    return ORDER.flatMap((name) => [...this.filters.values()].filter((one) => one.name === name));
  }

  /** Name and value of each field of the address. */
  pairs() {
    return this.listed.flatMap(({ name, values }) => values.map((value) => [name, value]));
  }

  /** The fields as a query; empty without filters. */
  query() {
    return new URLSearchParams(this.pairs());
  }

  /** The query of an example's address that keeps its place in the list of the selection. */
  get list() {
    return `?${new URLSearchParams([["in", "ask"], ...this.pairs()])}`;
  }

  /**
   * As an address says, and as the server reads it, in place of all filters.
   * @param {URLSearchParams} query
   */
  restore(query) {
    /** @type {Map<string, [string, string | undefined, string[]]>} */
    const found = new Map();
    for (const [name, given] of query) {
      if (!ONE.includes(name) && !MANY.includes(name)) continue;
      for (const value of name === "id" ? given.split(/[\s,]+/) : [given.trim()]) {
        if (!value) continue;
        const of = this.of(name, value);
        const key = of === undefined ? name : `${name}:${of}`;
        found.set(key, [name, of, [...(found.get(key)?.[2] ?? []), value]]);
      }
    }
    return this.inTurn(async () => {
      const tests = await Promise.all([...found.values()].map(([name, of, values]) => this.test(name, values, of)));
      this.filters.clear();
      this.fails.fill(0);
      [...found].forEach(([key, [name, , values]], i) => this.put({ name, key, values, test: tests[i], bit: this.free() }));
      this.changed();
    });
  }

  /**
   * The layer or attribute of a value whose filter is one of several.
   * @param {string} name
   * @param {string} value
   */
  of(name, value) {
    if (name === "attribute") return this.data.info.attributes.includes(value) ? value : value.slice(1);
    return ["cluster", "distance"].includes(name) ? value.slice(0, value.lastIndexOf(":")) : undefined;
  }

  clear() {
    return this.restore(new URLSearchParams()).then(() => this.finish());
  }

  /**
   * All values of a filter; none: the filter is removed. `finish` follows by itself, but for a step of a movement.
   * @param {string} name
   * @param {string[] | ((before: string[]) => string[])} values or how they follow from those at its turn
   * @param {string} [of]
   * @param {boolean} [moving]
   */
  set(name, values, of, moving = false) {
    this.since ??= performance.now();
    const next = typeof values === "function" ? values : () => values;
    return this.inTurn(() => this.change(name, next(this.values(name, of)), of)).then(() => (moving ? undefined : this.finish()));
  }

  /**
   * @param {string} name
   * @param {string[]} values
   * @param {string} [of]
   */
  async change(name, values, of) {
    const key = of === undefined ? name : `${name}:${of}`;
    const test = values.length ? await this.test(name, values, of) : undefined;
    this.put({ name, key, values, test, bit: this.filters.get(key)?.bit ?? this.free() });
    this.changed();
  }

  /** @param {Omit<Filter, "test"> & {test?: Test}} filter without a test: it is removed */
  put({ test, ...filter }) {
    const { key, bit } = filter;
    if (test) this.filters.set(key, { ...filter, test });
    else this.filters.delete(key);
    const tests = this.tests(bit);
    const { fails } = this;
    const passes = tests.length === 1 ? tests[0] : (/** @type {number} */ i) => tests.every((one) => one(i));
    for (let i = 0; i < fails.length; i++) fails[i] = passes(i) ? fails[i] & ~bit : fails[i] | bit;
  }

  /** The selection is one to come back to: the visitor is done with this change. */
  finish() {
    return this.inTurn(() => this.dispatchEvent(new Event("finish")));
  }

  /** A bit that no filter has, or the shared one. */
  free() {
    let taken = 0;
    for (const { bit } of this.filters.values()) taken |= bit;
    for (let i = 0; i < 31; i++) if (!(taken & (1 << i))) return 1 << i;
    return SHARED;
  }

  /**
   * Of the filters of a bit; `key`: without this one.
   * @param {number} bit
   * @param {string} [key]
   */
  tests(bit, key = "") {
    return [...this.filters.values()].filter((one) => one.bit === bit && one.key !== key).map((one) => one.test);
  }

  /**
   * Add or take out one value.
   * @param {string} name
   * @param {string} value
   * @param {string} [of]
   */
  toggle(name, value, of) {
    return this.set(name, (before) => {
      const others = name === "attribute" || ONE.includes(name) ? [] : before.filter((one) => one !== value);
      return before.includes(value) ? others : [...others, value];
    }, of);
  }

  changed() {
    const { fails, on, room } = this;
    let count = 0;
    for (let i = 0; i < fails.length; i++) {
      on[i] = fails[i] === 0 ? 1 : 0;
      if (on[i] === 1) room[count++] = i;
    }
    this.count = count;
    this.dispatchEvent(new Event("change"));
    if (performance.getEntriesByName("map-filter").length > 999) performance.clearMeasures("map-filter"); // brushes make many
    performance.measure("map-filter", { start: this.since ?? performance.now() });
    this.since = undefined;
  }

  /**
   * How many examples have each code, among those that pass all filters but one.
   * @param {ArrayLike<number>} codes (n,) below `size`; others are not counted
   * @param {number} size
   * @param {string} [key] of the filter that does not count
   */
  counts(codes, size, key = "") {
    const bit = this.filters.get(key)?.bit ?? 0;
    const others = bit ? this.tests(bit, key) : [];
    const found = new Int32Array(size);
    const { fails } = this;
    if (others.length) for (let i = 0; i < fails.length; i++) found[codes[i]] += (fails[i] & ~bit) === 0 && others.every((one) => one(i)) ? 1 : 0;
    else for (let i = 0; i < fails.length; i++) if ((fails[i] & ~bit) === 0) found[codes[i]]++;
    return found;
  }

  /**
   * Whether a row passes a filter. Comparisons are those of the server, at its precision.
   * @param {string} name
   * @param {string[]} values
   * @param {string | undefined} of
   * @returns {Promise<Test>}
   */
  async test(name, values, of) {
    const { data } = this;
    const { info } = data;
    if (name === "prediction" || name === "label") return this.classes(name, values);
    if (name === "split") {
      const [column, meant] = [await data.column("split"), values.map((one) => info.splits.indexOf(one))];
      return (i) => meant.includes(column[i]);
    }
    if (name === "right") {
      const [column, meant] = [await data.column("right"), values[0] === "right" ? 1 : 0];
      return (i) => column[i] === meant;
    }
    if (name === "attribute") {
      const meant = values.map((one) => (info.attributes.includes(one) ? [one, 1] : [one.slice(1), -1]));
      const columns = await Promise.all(meant.map(async ([one, sign]) => [await data.column(`attribute:${one}`), sign]));
      return (i) => columns.every(([column, sign]) => column[i] === sign);
    }
    if (name === "path") return this.path(values[0]);
    if (name === "cluster") {
      const [column, meant] = [await data.column(`cluster:${of}`), new Set(values.map((one) => Number(one.slice(one.lastIndexOf(":") + 1))))];
      return (i) => meant.has(column[i]);
    }
    if (name === "id") {
      const [column, meant] = [await data.column("id"), new Set(values.map((one) => String(BigInt(one.replaceAll("_", "").replace(/\.0+$/, "")))))];
      return (i) => meant.has(String(column[i]));
    }
    if (name === "within") return this.regions(values);
    const column = await data.column(name === "distance" ? `distance:${of}` : name);
    const [low, high] = ends(values[0].slice(values[0].lastIndexOf(":") + 1));
    const [from, to] = column instanceof Float32Array ? [Math.fround(low), Math.fround(high)] : [low, high];
    if (values.length > 1) {
      const rest = await this.test(name, values.slice(1), of);
      return (i) => column[i] >= from && column[i] <= to && rest(i);
    }
    return (i) => column[i] >= from && column[i] <= to;
  }

  /**
   * @param {"prediction" | "label"} name
   * @param {string[]} values
   */
  async classes(name, values) {
    const names = this.data.info[name === "label" ? "labels" : "predictions"];
    const column = this.data.has(name) ? await this.data.column(name) : new Int8Array(this.data.n).fill(-1);
    const meant = new Uint8Array(names.length + 1); // the first: not known
    names.forEach((one, i) => (meant[i + 1] = values.includes(one) ? 1 : 0));
    if (values.includes("none") && !names.includes("none")) meant[0] = 1;
    return (/** @type {number} */ i) => meant[column[i] + 1] === 1;
  }

  /** @param {string} text clusters from the first layer on; *: any */
  async path(text) {
    const { layers } = this.data.info;
    const steps = text.split("-").map((cluster, at) => ({ name: layers[at].name, cluster })).filter((one) => one.cluster !== "*");
    const found = await Promise.all(steps.map(async ({ name, cluster }) => ({ column: await this.data.column(`cluster:${name}`), cluster: Number(cluster) })));
    return (/** @type {number} */ i) => found.every((one) => one.column[i] === one.cluster);
  }

  /** @param {string[]} values */
  async regions(values) {
    const inside = new Uint8Array(this.data.n).fill(1);
    for (const value of values) {
      const { layer, corners } = region(value);
      const points = await this.data.points(layer);
      const find = finder(corners);
      for (let i = 0; i < inside.length; i++) if (inside[i] === 1 && !find(points[2 * i], points[2 * i + 1])) inside[i] = 0;
    }
    return (/** @type {number} */ i) => inside[i] === 1;
  }
}

/**
 * LOW..HIGH; an end that is left out is infinite.
 * @param {string} text
 */
export function ends(text) {
  const [low, high] = text.split("..");
  return [low ? Number(low) : -Infinity, high ? Number(high) : Infinity];
}

/**
 * LAYER:x,y;x,y;… or LAYER:umap;x,y;x,y;…
 * @param {string} text
 */
export function region(text) {
  const at = text.lastIndexOf(":");
  return { layer: text.slice(0, at), corners: text.slice(at + 1).replace("umap;", "").split(";").map((one) => one.split(",").map(Number)) };
}

/**
 * Whether a point is within a polygon, by the even-odd rule, with the arithmetic of explore/ranges.py. Only edges that cross the
 * point's band of heights are looked at.
 * @param {number[][]} corners
 */
export function finder(corners) {
  const heights = corners.map(([, y]) => y);
  const [low, high] = [Math.min(...heights), Math.max(...heights)];
  const [left, right] = [Math.min, Math.max].map((end) => end(...corners.map(([x]) => x)));
  const step = high > low ? BANDS / (high - low) : 0;
  const band = (/** @type {number} */ y) => Math.min(BANDS - 1, Math.max(0, Math.floor((y - low) * step)));
  /** @type {number[][]} */
  const bands = Array.from({ length: BANDS }, () => []); // lower end, upper end, x and y of the start, slope: five per edge
  corners.forEach(([x2, y2], i) => {
    const [x1, y1] = corners.at(i - 1) ?? [0, 0];
    if (y1 === y2) return;
    const [from, to] = [Math.min(y1, y2), Math.max(y1, y2)];
    for (let b = band(from); b <= band(to); b++) bands[b].push(from, to, x1, y1, (x2 - x1) / (y2 - y1));
  });
  return (/** @type {number} */ x, /** @type {number} */ y) => {
    if (!(x >= left && x <= right && y >= low && y <= high)) return false;
    const edges = bands[band(y)];
    let inside = false;
    for (let e = 0; e < edges.length; e += 5)
      if (y >= edges[e] && y < edges[e + 1] && x < edges[e + 2] + (y - edges[e + 3]) * edges[e + 4]) inside = !inside;
    return inside;
  };
}
