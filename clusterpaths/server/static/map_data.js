// @ts-check
// Columns of a set as typed arrays, each fetched once.

/**
 * @typedef {Int8Array | Int16Array | Int32Array | Float32Array | Float64Array | BigInt64Array} Column
 * @typedef {{name: string, k: number, method: string, explained: number[]}} Layer
 * @typedef {{num_examples: number, version: string, layers: Layer[], columns: {name: string, dtype: string}[],
 *   source: string | null, classes: string[], predictions: string[], labels: string[], splits: string[],
 *   attributes: string[], num_paths: number}} Info
 */

const KINDS = {
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array, float32: Float32Array, float64: Float64Array,
};

export const REPLACED = "The set was replaced. Reload the page.";

export class Data {
  /**
   * @param {string} api address of the set
   * @param {string} version
   */
  constructor(api, version) {
    this.api = api;
    this.version = version;
    /** @type {Info} */
    this.info = /** @type {any} */ (null);
    /** @type {Map<string, Promise<any>>} */
    this.asked = new Map();
    /** @type {Map<string, any>} */
    this.here = new Map();
  }

  /** What the set has. */
  async open() {
    const info = await (await this.get("map", new URLSearchParams())).json();
    if (info.version !== this.version) throw new Error(REPLACED);
    this.info = /** @type {Info} */ (info);
    this.dtypes = new Map(this.info.columns.map((one) => [one.name, one.dtype]));
  }

  get n() {
    return this.info.num_examples;
  }

  /** @param {string} name */
  has(name) {
    return this.dtypes?.has(name) ?? false;
  }

  /**
   * One value per example.
   * @param {string} name
   * @returns {Promise<any>}
   */
  column(name) {
    const kind = KINDS[/** @type {keyof typeof KINDS} */ (this.dtypes?.get(name) ?? "")];
    if (!kind) throw new Error(`This set has no ${name}.`);
    return this.array(name, kind, "map/columns", new URLSearchParams({ name, v: this.version }));
  }

  /**
   * (n, 2), interleaved x and y.
   * @param {string} layer
   * @returns {Promise<Float32Array>}
   */
  points(layer) {
    return this.array(`points of ${layer}`, Float32Array, "map/points", new URLSearchParams({ layer, v: this.version }));
  }

  /**
   * A column or the points of a layer if they are here already.
   * @param {string} key
   */
  now(key) {
    return this.here.get(key);
  }

  /**
   * @param {string} key
   * @param {any} kind
   * @param {string} place
   * @param {URLSearchParams} query
   */
  array(key, kind, place, query) {
    let found = this.asked.get(key);
    if (!found) {
      found = this.get(place, query).then(async (answer) => {
        const array = new kind(await answer.arrayBuffer());
        this.here.set(key, array);
        return array;
      });
      found.catch(() => this.asked.delete(key)); // asked again next time
      this.asked.set(key, found);
    }
    return found;
  }

  /**
   * @param {string} place
   * @param {URLSearchParams} query
   * @param {AbortSignal} [signal]
   */
  async get(place, query, signal) {
    const text = query.toString();
    const answer = await fetch(`${this.api}/${place}${text && "?"}${text}`, { signal }).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The server does not respond. Start it, then reload the page.");
    });
    if (answer.ok) return answer;
    if (answer.status === 401) throw new Error("The session has ended. Reload the page to log in.");
    if (answer.status === 409) throw new Error(REPLACED);
    let detail = `The server answered ${answer.status}.`;
    try {
      detail = (await answer.json()).detail;
    } catch {
      // no JSON: the status is all there is
    }
    throw new Error(detail);
  }
}
