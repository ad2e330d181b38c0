// Boxes inside boxes, drawn in rows: every box is laid out by itself (Sugiyama, Tagawa & Toda, 1981),
// and edges enter and leave it at ports on its border.
const layout = {
  gap: 14, rise: 20, head: 26, pad: 12, // pixels between neighbors, between rows, of titles, at borders
  mostPorts: 8,
  large: [158, 38], small: [118, 20], end: [130, 24], closed: [170, 40],
};

// Items: layers, inputs and outputs of the network, and boxes. Links belong to the box in which they are drawn.
function makeItems() {
  const root = { kind: "box", box: -1, parent: null, children: [], links: new Map(), ins: new Set(), outs: new Set(), open: true, depth: 0, layers: count };
  const boxes = portrait.modules.map(([name, , stage, origin], box) => (
    { kind: "box", box, name, stage, origin: originOf(origin), parent: null, children: [], links: new Map(), ins: new Set(), outs: new Set(), open: false, layers: 0, macs: 0 }));
  const inBox = (item, parent) => {
    item.parent = parent;
    item.depth = parent.depth + 1;
    parent.children.push(item);
  };
  portrait.modules.forEach(([, parent], box) => {
    boxes[box].parent = parent < 0 ? root : boxes[parent];
    boxes[box].depth = boxes[box].parent.depth + 1;
  });
  const ends = portrait.inputs.map(([name, shape], index) => ({ kind: "input", index, name, text: shape.join("×") }));
  ends.forEach((item) => inBox(item, root));
  const seen = new Set();
  const leaves = layers.name.map((name, layer) => {
    const item = { kind: "layer", layer };
    const parent = layers.parent[layer] < 0 ? root : boxes[layers.parent[layer]];
    // A box stands where its first layer stands.
    const waiting = [];
    for (let box = parent; box !== root && !seen.has(box); box = box.parent) waiting.unshift(box);
    for (const box of waiting) {
      seen.add(box);
      box.parent.children.push(box);
    }
    inBox(item, parent);
    for (let box = parent; box !== root; box = box.parent) {
      box.layers += 1;
      box.macs += layers.macs[layer];
    }
    return item;
  });
  const outputs = portrait.outputs.map(([name, from]) => ({ kind: "output", name, text: "output", from }));
  outputs.forEach((item) => inBox(item, root));
  const at = (place) => place < 0 ? ends[-1 - place] : leaves[place];
  const edges = [];
  for (let i = 0; i < portrait.edges.length; i += 2) edges.push([at(portrait.edges[i]), at(portrait.edges[i + 1])]);
  for (const item of outputs) edges.push([at(item.from), item]);
  edges.forEach(([from, to]) => link(from, to));
  return { root, boxes, leaves };
}

// An edge becomes a link in the innermost box around both ends, and one in every box that it enters or leaves.
function link(from, to) {
  const value = from;
  const add = (box, one, other) => {
    box.links.set(`${one === "in" ? "in" : id(one)} ${other === "out" ? "out" : id(other)} ${id(value)}`, { from: one, to: other, value });
  };
  let [one, other] = [from, to];
  while (one.parent !== other.parent) {
    if (one.depth >= other.depth) {
      add(one.parent, one, "out");
      one.parent.outs.add(value);
      one = one.parent;
    } else {
      add(other.parent, "in", other);
      other.parent.ins.add(value);
      other = other.parent;
    }
  }
  add(one.parent, one, other);
}
let lastId = 0;
const id = (item) => item.id ??= ++lastId;

function sizeOf(item) {
  if (item.kind === "layer") return isSmall(item.layer) ? layout.small : layout.large;
  return item.kind === "box" ? layout.closed : layout.end;
}

// Lays out one box and all open boxes in it; returns nothing, every item then knows its place in its box.
function arrange(box) {
  const vertices = new Map();
  const all = [];
  const vertex = (key, item, width, height) => {
    const found = { item, width, height, row: 0, x: 0, before: [], after: [] };
    vertices.set(key, found);
    all.push(found);
    return found;
  };
  for (const item of box.children) {
    if (item.kind === "box" && item.open) arrange(item);
    else [item.width, item.height] = sizeOf(item);
    vertex(item, item, item.width, item.height);
  }
  const port = (side, value, set) => {
    const key = `${side} ${set.size > layout.mostPorts ? "" : id(value)}`;
    return vertices.get(key) ?? Object.assign(vertex(key, null, 8, 0), { side });
  };
  const links = [];
  for (const { from, to, value } of box.links.values()) {
    const start = from === "in" ? port("in", value, box.ins) : vertices.get(from);
    const end = to === "out" ? port("out", value, box.outs) : vertices.get(to);
    if (start === end) continue;
    links.push({ start, end, value, out: attachment(from, "outPorts", value), in: attachment(to, "inPorts", value), route: [] });
  }
  const rows = intoRows(all, links);
  route(links, rows);
  order(rows);
  place(rows);
  measure(box, rows, all, links);
}

// How far from its middle a link leaves or enters an item.
function attachment(item, ports, value) {
  if (item === "in" || item === "out" || item.kind !== "box" || !item.open) return 0;
  const at = item[ports].get(id(value)) ?? item[ports].get("");
  return at === undefined ? 0 : at - item.width / 2;
}

// Rows by the longest path from the top.
function intoRows(all, links) {
  const waiting = new Map(all.map((vertex) => [vertex, 0]));
  const next = new Map(all.map((vertex) => [vertex, []]));
  for (const { start, end } of links) {
    waiting.set(end, waiting.get(end) + 1);
    next.get(start).push(end);
  }
  const ready = all.filter((vertex) => waiting.get(vertex) === 0);
  const hasPorts = all.some((vertex) => vertex.side === "in");
  for (const vertex of ready) vertex.row = vertex.side === "in" || !hasPorts ? 0 : 1;
  let last = 0;
  for (const vertex of ready) {
    last = Math.max(last, vertex.row);
    for (const user of next.get(vertex)) {
      user.row = Math.max(user.row, vertex.row + 1);
      waiting.set(user, waiting.get(user) - 1);
      if (waiting.get(user) === 0) ready.push(user);
    }
  }
  const outs = all.filter((vertex) => vertex.side === "out");
  if (outs.length) {
    const inner = Math.max(0, ...all.filter((vertex) => vertex.side !== "out").map((vertex) => vertex.row));
    last = inner + 1;
    for (const vertex of outs) vertex.row = last;
  }
  // What nothing comes before stands right above its first user.
  for (const vertex of all) {
    const users = next.get(vertex);
    if (vertex.side !== "in" && users.length && !links.some((each) => each.end === vertex)) {
      vertex.row = Math.max(vertex.row, Math.min(...users.map((user) => user.row)) - 1);
    }
  }
  const rows = Array.from({ length: last + 1 }, () => []);
  for (const vertex of all) rows[vertex.row].push(vertex);
  return rows;
}

// Long links pass every row between their ends; those of one value share their way.
function route(links, rows) {
  const ways = new Map();
  const join = (one, other, weight, out = 0, into = 0) => {
    one.after.push({ other, weight, here: out, there: into });
    other.before.push({ other: one, weight, here: into, there: out });
  };
  for (const each of links) {
    const { start, end } = each;
    const key = `${id(start)} ${each.out}`;
    if (!ways.has(key)) ways.set(key, []);
    const way = ways.get(key);
    let before = start;
    let out = each.out;
    for (let row = start.row + 1; row < end.row; row += 1) {
      let bend = way[row];
      if (bend === undefined) {
        bend = way[row] = { item: null, bend: true, width: 10, height: 0, row, x: 0, before: [], after: [] };
        rows[row].push(bend);
        join(before, bend, before.bend ? 8 : 1, out);
      }
      each.route.push(bend);
      before = bend;
      out = 0;
    }
    join(before, end, before.bend ? 1 : 3, out, each.in);
  }
}

// Within a row, everything stands where its neighbors above (then below) have their mean.
function order(rows) {
  const pack = (row) => {
    let x = 0;
    for (const vertex of row) {
      vertex.x = x + vertex.width / 2;
      x += vertex.width + layout.gap;
    }
    for (const vertex of row) vertex.x -= x / 2;
  };
  rows.forEach(pack);
  if (rows.every((row) => row.length < 2)) return;
  for (let sweep = 0; sweep < 6; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      if (row.length < 2) continue;
      const wish = new Map(row.map((vertex) => [vertex, mean(vertex, down ? vertex.before : vertex.after)]));
      row.sort((a, b) => wish.get(a) - wish.get(b));
      pack(row);
    }
  }
}

function mean(vertex, neighbors) {
  if (!neighbors.length) return vertex.x;
  let [sum, weights] = [0, 0];
  for (const { other, weight, here, there } of neighbors) {
    sum += weight * (other.x + there - here);
    weights += weight;
  }
  return sum / weights;
}

// Moves every row as close to its neighbors as its order allows: isotonic regression.
function place(rows) {
  const sweeps = rows.length > 400 ? 5 : 13;
  for (let sweep = 0; sweep < sweeps; sweep += 1) {
    const down = sweep % 2 === 0; // the last one goes down: chains hang straight
    for (const row of down ? rows : [...rows].reverse()) {
      const both = sweep % 4 === 3;
      const wishes = row.map((vertex) => {
        const near = both ? [...vertex.before, ...vertex.after] : down ? vertex.before : vertex.after;
        return [mean(vertex, near), near.length ? near.reduce((sum, { weight }) => sum + weight, 0) : 0.1];
      });
      spread(row, wishes);
    }
  }
}

function spread(row, wishes) {
  let offset = 0;
  const offsets = row.map((vertex, index) => {
    if (index) offset += (row[index - 1].width + vertex.width) / 2 + layout.gap;
    return offset;
  });
  const blocks = [];
  wishes.forEach(([wish, weight], index) => {
    let block = { sum: weight * (wish - offsets[index]), weight, count: 1 };
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).weight >= block.sum / block.weight) {
      const other = blocks.pop();
      block = { sum: other.sum + block.sum, weight: other.weight + block.weight, count: other.count + block.count };
    }
    blocks.push(block);
  });
  let index = 0;
  for (const block of blocks) {
    for (let i = 0; i < block.count; i += 1, index += 1) row[index].x = block.sum / block.weight + offsets[index];
  }
}

// Turns rows into pixels: places of items in the box, the size of the box, its ports and the paths of its links.
function measure(box, rows, all, links) {
  const isRoot = box.parent === null;
  const low = Math.min(...rows.flat().map((vertex) => vertex.x - vertex.width / 2), 0);
  const high = Math.max(...rows.flat().map((vertex) => vertex.x + vertex.width / 2), 0);
  const pad = isRoot ? 10 : layout.pad;
  box.width = Math.max(high - low + 2 * pad, isRoot ? 0 : 190);
  const shift = (box.width - (high - low)) / 2 - low;
  for (const vertex of rows.flat()) vertex.x += shift;
  const bent = rows.map(() => 0);
  for (const vertex of rows.flat()) {
    for (const { other, here, there } of vertex.after) if (Math.abs(vertex.x + here - other.x - there) > 8) bent[vertex.row] += 1;
  }
  let y = isRoot ? 10 : 0;
  const tops = [];
  const bottoms = [];
  rows.forEach((row, index) => {
    const height = Math.max(0, ...row.map((vertex) => vertex.height));
    if (index === 0 && !isRoot && height > 0) y = layout.head + 6;
    tops.push(y);
    bottoms.push(y + height);
    y += height + layout.rise + Math.min(26, 3 * bent[index]);
    if (index === 0 && !isRoot && height === 0) y = layout.head + 10 + Math.min(26, 3 * bent[0]);
  });
  const endsInPorts = rows.at(-1)?.some((vertex) => vertex.side === "out");
  box.height = (bottoms.at(-1) ?? 0) + (endsInPorts ? 0 : pad);
  box.inPorts = new Map();
  box.outPorts = new Map();
  for (const [key, ports, set] of [["in", box.inPorts, box.ins], ["out", box.outPorts, box.outs]]) {
    for (const { from, to, value } of box.links.values()) {
      if ((key === "in" ? from : to) !== key) continue;
      const name = set.size > layout.mostPorts ? "" : id(value);
      const found = links.find((each) => (key === "in" ? each.start : each.end).side === key && (name === "" || each.value === value));
      if (found) ports.set(name, (key === "in" ? found.start : found.end).x);
    }
  }
  for (const vertex of all) {
    if (!vertex.item) continue;
    vertex.item.x = vertex.x - vertex.width / 2;
    vertex.item.y = tops[vertex.row];
  }
  const drawn = new Set();
  box.paths = [];
  for (const { start, end, value, out, in: into, route: bends } of links) {
    const points = [[start.x + out, tops[start.row] + start.height], [start.x + out, bottoms[start.row]]];
    for (const bend of bends) points.push([bend.x, tops[bend.row]], [bend.x, bottoms[bend.row]]);
    points.push([end.x + into, tops[end.row]]);
    const key = points.join(" ");
    if (!drawn.has(key)) box.paths.push({ points, value, end: end.item });
    drawn.add(key);
  }
}

function pathOf(points, dx, dy) {
  let text = "";
  points.forEach(([x, y], index) => {
    const [left, top] = [Math.round(10 * (x + dx)) / 10, Math.round(10 * (y + dy)) / 10];
    if (!index) {
      text = `M${left} ${top}`;
      return;
    }
    const [before, above] = [Math.round(10 * (points[index - 1][0] + dx)) / 10, Math.round(10 * (points[index - 1][1] + dy)) / 10];
    if (top === above && left === before) return;
    const middle = Math.round(5 * (top + above)) / 10;
    text += Math.abs(left - before) < 0.5 ? `L${left} ${top}` : `C${before} ${middle} ${left} ${middle} ${left} ${top}`;
  });
  return text;
}
