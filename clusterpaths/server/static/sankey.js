// @ts-check
// The routes of a set, drawn by plotly over the server's figure. If anything is missing, that figure stays.

/**
 * @typedef {{name: string, number: number, layer: number, count: number, colour: number, words: string, named: string, href: string,
 *   middle: number, height: number, beside: string, beside_at: number}} RouteNode
 * @typedef {{source: number, target: number, count: number, colour: number, words: string, href: string}} RouteLink
 * @typedef {{layers: string[], agreements: (number | null)[], total: number, numbers: number, patterns: number, nodes: RouteNode[], links: RouteLink[]}} RoutesData
 */

const NODE = 30; // width of a block
const FOOT = 36; // room for the layers' names
const SECOND = 18; // and for the percentage below
const SIDE = 34;
const FITS = 15 / 300; // as the server: a block so high, as a share, holds its number; else it stands beside it

/**
 * @param {HTMLElement} box
 * @param {HTMLElement} target
 * @param {RoutesData} data
 */
async function start(box, target, data) {
  box.style.minWidth = `${Math.max(280, 110 * data.layers.length + roomFor(data))}px`;
  box.classList.add("live");
  await draw(target, data);
  document.documentElement.classList.add("drawn");
  /** @type {any} */ (target).on("plotly_click", (/** @type {any} */ event) => {
    const point = event.points[0];
    const href = "sourceLinks" in point ? data.nodes[point.pointNumber].href : data.links[point.pointNumber].href;
    if (event.event?.ctrlKey || event.event?.metaKey) window.open(href, "_blank", "noopener");
    else window.location.assign(href);
  });
  let width = target.clientWidth;
  /** @type {number | undefined} */
  let waiting;
  new ResizeObserver(() => {
    if (target.clientWidth === width) return;
    width = target.clientWidth;
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => draw(target, data), 120);
  }).observe(target);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(target, data));
  for (const choice of document.querySelectorAll("input[name=colours]")) {
    choice.addEventListener("change", () => draw(target, data));
  }
}

/**
 * @param {HTMLElement} target
 * @param {RoutesData} data
 */
async function draw(target, data) {
  const style = getComputedStyle(document.documentElement);
  const token = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const palette = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => token(`--f${i}`)).concat(token("--lab"));
  const byCluster = Boolean(document.querySelector("#by-cluster:checked")); // else by class
  /** @param {RouteNode} node */
  const colourOf = (node) => (byCluster ? node.number % data.numbers : node.colour);
  /** @param {RouteLink} link */
  const bandColour = (link) => palette[byCluster ? colourOf(data.nodes[link.source]) : link.colour];
  const width = Math.max(target.clientWidth, 240);
  const height = target.clientHeight || 430;
  const foot = data.agreements.some((share) => share !== null) ? FOOT + SECOND : FOOT;
  const room = roomFor(data);
  const inner = { width: width - 2 * SIDE - room, height: height - foot - 8 };
  const last = Math.max(data.layers.length - 1, 1);
  // No <b> in plotly's texts: it would set a style attribute, which the pages' policy forbids.
  // plotly takes the middle of a block, as a share of the room; blocks keep inside it
  const x = data.nodes.map((node) => (NODE / 2 + (node.layer / last) * (inner.width - NODE)) / inner.width);
  const y = data.nodes.map((node) => Math.min(Math.max(node.middle, 0.001), 0.999));
  const share = (/** @type {number} */ count) => `${count.toLocaleString("en")} examples (${percent(count / data.total)})`;
  const sankey = {
    type: "sankey",
    arrangement: "fixed",
    orientation: "h",
    node: {
      x,
      y,
      label: data.nodes.map(() => ""),
      color: data.nodes.map((node) => palette[colourOf(node)]),
      customdata: data.nodes.map((node) => lines([escaped(node.name), escaped(node.named), share(node.count), escaped(node.words)])),
      hovertemplate: "%{customdata}<extra></extra>",
      thickness: NODE,
      pad: Math.max(1, 0.0125 * inner.height * Math.min(1, 8 / Math.max(1, ...perLayer(data)))),
      line: { width: 0 },
    },
    link: {
      source: data.links.map((link) => link.source),
      target: data.links.map((link) => link.target),
      value: data.links.map((link) => link.count),
      color: data.links.map((link) => translucent(bandColour(link), dark ? 0.42 : 0.36)),
      hovercolor: data.links.map((link) => translucent(bandColour(link), 0.8)),
      customdata: data.links.map((link) =>
        lines([
          `${escaped(data.nodes[link.source].name)} → ${escaped(data.nodes[link.target].name)}`,
          `${share(link.count)}, ${percent(link.count / data.nodes[link.source].count)} of the first`,
          escaped(link.words),
        ]),
      ),
      hovertemplate: "%{customdata}<extra></extra>",
    },
  };
  const font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: token("--text") };
  const fixed = {
    xref: "paper", yref: "paper", xanchor: "center", yanchor: "middle", showarrow: false, captureevents: false,
  };
  const names = data.layers.map((name, i) => ({
    ...fixed,
    ...placeOf(name, i, last, (NODE / 2 + (i / last) * (inner.width - NODE)) / inner.width),
    y: 0,
    yshift: -18,
    text: escaped(name.length > 18 ? `${name.slice(0, 17)}…` : name),
    font: { ...font, size: 14, weight: 700 },
  }));
  const agreements = data.agreements.flatMap((share, i) =>
    share === null ? [] : [{ ...names[i], yshift: -38, text: percent(share, 0), font: { ...font, color: token("--soft") } }],
  );
  const numbers = data.nodes.flatMap((node, i) =>
    node.height < FITS
      ? []
      : [
          {
            ...fixed,
            x: x[i],
            y: 1 - y[i],
            text: String(node.number),
            font: { ...font, weight: 700, color: colourOf(node) === 5 ? "#fff" : colourOf(node) === 8 ? token("--card") : "#000" },
          },
        ],
  );
  const beside = data.nodes.flatMap((node, i) =>
    node.beside
      ? [{ ...fixed, x: x[i], xshift: NODE / 2 + 5, xanchor: "left", y: 1 - node.beside_at, text: escaped(node.beside), font }]
      : [],
  );
  const layout = {
    width,
    height,
    margin: { l: SIDE, r: SIDE + room, t: 8, b: foot, pad: 0 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font,
    hoverlabel: { bgcolor: token("--card"), bordercolor: token("--lab"), font, align: "left" },
    annotations: [...names, ...agreements, ...numbers, ...beside],
  };
  await plotly.react(target, [sankey], layout, { displayModeBar: false, responsive: false, staticPlot: false });
  makeReachable(target, data);
  addPatterns(target, data, byCluster);
}

/**
 * Blocks by number have a pattern, too: that of report.css, from the page's <defs>.
 * @param {HTMLElement} target
 * @param {RoutesData} data
 * @param {boolean} shown
 */
function addPatterns(target, data, shown) {
  for (const element of target.querySelectorAll(".sankey-node")) {
    element.querySelector(".pattern")?.remove();
    const number = data.nodes[/** @type {any} */ (element).__data__?.node?.pointNumber ?? -1]?.number ?? 0;
    const block = element.querySelector(".node-rect");
    if (!shown || !block || number % data.patterns === 0) continue;
    const pattern = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    pattern.setAttribute("class", "pattern");
    pattern.setAttribute("fill", `url(#pattern${number % data.patterns})`);
    for (const name of ["x", "y", "width", "height"]) pattern.setAttribute(name, block.getAttribute(name) ?? "0");
    block.after(pattern);
  }
}

/**
 * Blocks are links for keyboards and screen readers, too.
 * @param {HTMLElement} target
 * @param {RoutesData} data
 */
function makeReachable(target, data) {
  for (const element of /** @type {NodeListOf<SVGGElement>} */ (target.querySelectorAll(".sankey-node"))) {
    const datum = /** @type {any} */ (element).__data__;
    const node = data.nodes[datum?.node?.pointNumber ?? -1];
    if (!node) continue;
    element.setAttribute("tabindex", "0");
    element.setAttribute("role", "link");
    element.setAttribute("data-href", node.href);
    element.setAttribute(
      "aria-label",
      [node.name, node.named, `${node.count.toLocaleString("en")} examples`, node.words].filter(Boolean).join(", "),
    );
    element.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      window.location.assign(node.href);
    };
  }
}

/**
 * Long names of the first and the last layer end with the figure.
 * @param {string} name
 * @param {number} at
 * @param {number} last
 * @param {number} middle
 */
function placeOf(name, at, last, middle) {
  if (name.length > 8 && at === 0) return { x: 0, xanchor: "left" };
  if (name.length > 8 && at === last) return { x: 1, xanchor: "right" };
  return { x: middle, xanchor: "center" };
}

/**
 * Pixels that the words beside the last layer's blocks take.
 * @param {RoutesData} data
 */
function roomFor(data) {
  const last = data.nodes.filter((node) => node.layer === data.layers.length - 1);
  return 7.5 * Math.max(0, ...last.map((node) => node.beside.length));
}

/** @param {RoutesData} data */
function perLayer(data) {
  const counts = data.layers.map(() => 0);
  for (const node of data.nodes) counts[node.layer] += 1;
  return counts;
}

/** @param {string[]} parts */
const lines = (parts) => parts.filter(Boolean).join("<br>");

/** @param {string} text */
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/**
 * @param {number} value
 * @param {number} digits
 */
const percent = (value, digits = 1) => `${value > 0 && value < 0.0005 ? "<0.1" : (100 * value).toFixed(digits)}%`;

/**
 * @param {string} colour #rrggbb
 * @param {number} alpha
 */
function translucent(colour, alpha) {
  const parts = [1, 3, 5].map((i) => Number.parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${parts.join(",")},${alpha})`;
}

const box = /** @type {HTMLElement | null} */ (document.querySelector(".routes"));
const source = document.getElementById("routes-data");
/** @type {any} */
const plotly = /** @type {any} */ (window).Plotly;
if (box && source && plotly) {
  const data = /** @type {RoutesData} */ (JSON.parse(source.textContent ?? ""));
  const target = document.createElement("div");
  target.className = "plotly-box";
  box.append(target);
  start(box, target, data).catch((error) => {
    target.remove();
    box.classList.remove("live");
    console.warn("Falling back to the figure drawn by the server:", error);
  });
}
