// What is known of the network, and how numbers are written.
const portrait = JSON.parse(document.getElementById("data").textContent);
const layers = portrait.layers;
const count = layers.name.length;
const said = (column, layer) => portrait.strings[layers[column][layer]];
const placeOf = new Map(layers.name.map((name, layer) => [name, layer]));
const find = (id) => document.getElementById(id);

const totalMacs = layers.macs.reduce((sum, macs) => sum + macs, 0);
const mostMacs = Math.max(1, ...layers.macs);

function made(parent, tag, attributes, ...children) {
  const element = parent === "svg" ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}
const html = (tag, attributes, ...children) => made("html", tag, attributes, ...children);
const svg = (tag, attributes, ...children) => made("svg", tag, attributes, ...children);

const whole = (number) => number.toLocaleString("en-US");
function scaled(number, base, units, last) {
  let power = 0;
  while (number >= 999.5 && power + 1 < units.length) {
    number /= base;
    power += 1;
  }
  const digits = number < 9.995 ? 2 : number < 99.95 ? 1 : 0;
  return `${number.toFixed(digits)} ${units[power]}${last}`;
}
const short = (number) => number < 10000 ? whole(number) : scaled(number, 1000, ["", "k", "M", "G", "T", "P", "E"], "");
const bytes = (number) => number < 1024 ? `${number} B` : scaled(number, 1024, ["", "K", "M", "G", "T", "P", "E"], "iB");
const percent = (share) => share >= 0.0995 || share === 0 ? `${(100 * share).toFixed(0)} %` : `${(100 * share).toPrecision(2)} %`;
function intensity(layer) {
  const moved = layers.weights[layer] + layers.reads[layer] + layers.writes[layer];
  return layers.status[layer] === 2 || moved === 0 ? null : layers.flops[layer] / moved;
}
function ratio(number) {
  if (number === null) return "–";
  return number === 0 ? "0" : number.toFixed(number < 9.995 ? 2 : number < 99.95 ? 1 : 0);
}

// As much of a text as fits into so many pixels; its end says more than its middle.
const ruler = document.createElement("canvas").getContext("2d");
const face = getComputedStyle(document.body).fontFamily;
const widths = new Map();
function wide(text, style) {
  const key = `${style} ${text}`;
  if (!widths.has(key)) {
    ruler.font = `${style} ${face}`;
    widths.set(key, ruler.measureText(text).width);
  }
  return widths.get(key);
}
const strong = "600 11px";
const plain = "400 10px";
function fitted(text, room, style) {
  if (wide(text, style) <= room) return text;
  const signs = [...text];
  const cut = (kept) => {
    const head = Math.floor(kept / 2);
    return `${signs.slice(0, head).join("")}…${signs.slice(signs.length - (kept - head)).join("")}`;
  };
  let [least, most] = [0, Math.min(signs.length - 1, 60)];
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (wide(cut(middle), style) <= room) least = middle;
    else most = middle - 1;
  }
  return cut(least);
}

// What every layer uses, and what uses it; inputs of the network are -1, -2, ...
const sources = Array.from({ length: count }, () => []);
const users = Array.from({ length: count }, () => []);
for (let i = 0; i < portrait.edges.length; i += 2) {
  const [from, to] = [portrait.edges[i], portrait.edges[i + 1]];
  sources[to].push(from);
  if (from >= 0) users[from].push(to);
}

const kinds = [
  ["conv", "convolution", ["Conv", "DeformConv"]],
  ["matmul", "linear, matrix product", ["Linear", "MatMul", "Einsum"]],
  ["pool", "pooling", ["Pool", "GlobalPool", "AdaptivePool", "Unpool", "Reduce"]],
  ["meet", "where paths meet", ["Elementwise", "Concat", "Where"]],
  ["norm", "normalization", ["Norm", "LocalResponseNorm"]],
  ["act", "activation", ["Activation", "Unary", "Softmax", "LogSoftmax"]],
  ["size", "resizing", ["Resize", "DepthToSpace", "SpaceToDepth", "GridSample"]],
  ["unknown", "not known", ["Unsupported"]],
];
const kindOf = new Map(kinds.flatMap(([kind, , operators]) => operators.map((operator) => [operator, kind])));
const kind = (layer) => kindOf.get(said("op", layer)) ?? "other";
// What a layer stands for after a rewrite: a layer of the original, or nothing.
const originOf = (place) => place < 0 ? null : (([name, text, form, before, after, error]) => ({ name, text, form, before, after, error }))(portrait.origins[place]);
const isRewritten = portrait.origins.length > 0;
const isSmall = (layer) => ["norm", "act", "other"].includes(kind(layer));
