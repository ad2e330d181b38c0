// The network as a drawing: only what is in sight is in the document, so that thousands of layers stay quick.
const network = { ...makeItems(), scale: 1, matches: new Set(), drawnFor: "" };
{
  const { root, boxes, leaves } = network;
  const graph = find("graph");
  const page = svg("g");
  const canvas = svg("svg", { "aria-hidden": "true" }, page);
  graph.append(canvas);

  const isShown = (item) => {
    for (let box = item.parent; box; box = box.parent) if (!box.open) return false;
    return true;
  };
  const corner = (item) => {
    let [x, y] = [item.x, item.y];
    for (let box = item.parent; box && box.parent; box = box.parent) {
      x += box.x;
      y += box.y;
    }
    return [x, y];
  };
  const title = (item) => {
    if (item.kind === "box") return item.name;
    return item.kind === "layer" ? layers.name[item.layer] : item.name;
  };
  // The name of a layer or module without that of the module around it.
  const label = (item) => {
    const name = title(item);
    if (item.origin) return `${inner(item, item.origin.name)}${item.origin.text ? `: ${item.origin.text}` : ""}`;
    return inner(item, name);
  };
  const inner = (item, name) => {
    for (let box = item.parent; box && box.parent; box = box.parent) {
      if (!box.stage && !box.origin && name.startsWith(`${box.name}.`)) return name.slice(box.name.length + 1);
    }
    return name;
  };

  const open = (box, isOpen) => {
    box.open = isOpen;
  };
  // At first, modules are opened from the outside in while there is little to see.
  const openSome = (most) => {
    let shown = root.children.length;
    const waiting = [...root.children];
    for (const item of waiting) {
      if (item.kind !== "box" || shown + item.children.length - 1 > most) continue;
      open(item, true);
      shown += item.children.length - 1;
      waiting.push(...item.children);
    }
  };

  const lay = () => {
    arrange(root);
    network.drawnFor = "";
    resize();
  };
  const resize = () => {
    canvas.setAttribute("width", Math.ceil(root.width * network.scale));
    canvas.setAttribute("height", Math.ceil((root.height + 10) * network.scale));
    canvas.setAttribute("viewBox", `0 0 ${root.width} ${root.height + 10}`);
    network.drawnFor = "";
    draw();
  };

  const drawn = { left: 0, top: 0, right: -1, bottom: -1 };
  const draw = () => {
    const { scale } = network;
    const margin = 300;
    const view = {
      left: graph.scrollLeft / scale, top: graph.scrollTop / scale,
      right: (graph.scrollLeft + graph.clientWidth) / scale, bottom: (graph.scrollTop + graph.clientHeight) / scale,
    };
    const state = `${selection.layer} ${network.matches.size}`;
    if (state === network.drawnFor && view.left >= drawn.left && view.right <= drawn.right && view.top >= drawn.top && view.bottom <= drawn.bottom) return;
    network.drawnFor = state;
    Object.assign(drawn, { left: view.left - margin, top: view.top - margin, right: view.right + margin, bottom: view.bottom + margin });
    const found = { boxes: [], edges: [], items: [], titles: [] };
    collect(root, 0, 0, found);
    page.replaceChildren(...found.boxes, ...found.edges, ...found.items, ...found.titles);
  };
  const inSight = (x, y, width, height) => x <= drawn.right && x + width >= drawn.left && y <= drawn.bottom && y + height >= drawn.top;

  const collect = (box, dx, dy, found) => {
    const chosen = leaves[selection.layer];
    for (const { points, value, end } of box.paths) {
      const xs = points.map(([x]) => x + dx);
      const [first, last] = [points[0][1] + dy, points.at(-1)[1] + dy];
      if (!inSight(Math.min(...xs), first, Math.max(...xs) - Math.min(...xs), last - first)) continue;
      const isNear = chosen && (value === chosen || end === chosen);
      const edge = svg("path", { class: isNear ? "edge near" : "edge", d: pathOf(points, dx, dy) });
      if (isNear) found.edges.push(edge);
      else found.edges.unshift(edge);
    }
    for (const item of box.children) {
      const [x, y] = [item.x + dx, item.y + dy];
      if (!inSight(x, y, item.width, item.height)) continue;
      if (item.kind === "box" && item.open) {
        const drawnBox = boxOf(item, x, y);
        found.boxes.push(drawnBox);
        // Its title stands above the edges that go through.
        found.titles.push(svg("g", { class: "box open", transform: at(x, y), "data-box": item.box },
          svg("rect", { class: "grip", width: item.width, height: layout.head }), ...drawnBox.querySelectorAll("text, .caret")));
        collect(item, x, y, found);
      } else {
        found.items.push(item.kind === "layer" ? layerOf(item, x, y) : item.kind === "box" ? boxOf(item, x, y) : endOf(item, x, y));
      }
    }
  };
  const share = (macs) => totalMacs ? percent(macs / totalMacs) : "";
  const at = (x, y) => `translate(${Math.round(10 * x) / 10} ${Math.round(10 * y) / 10})`;
  const boxOf = (item, x, y) => {
    const [width, height] = item.open ? [item.width, item.height] : layout.closed;
    const { origin } = item;
    const some = origin?.before ? `${short(origin.before)} → ${short(origin.after)} MACs, ${item.layers} layers`
      : `${item.layers} layers${item.macs ? `, ${share(item.macs)}` : ""}`;
    const hits = item.open ? 0 : inside(item).filter((layer) => network.matches.has(layer)).length;
    const holds = !item.open && selection.layer >= 0 && isInside(leaves[selection.layer], item);
    const classes = `box${item.open ? " open" : ""}${origin ? " rewritten" : ""}${hits ? " match" : ""}${holds ? " chosen" : ""}`;
    const room = width - 34;
    const parts = [svg("title", {}, `${item.name}: ${some}`)];
    if (!item.open) parts.push(svg("rect", { class: "under", x: 4, y: 4, width, height, rx: 6 }));
    parts.push(svg("rect", { class: "face", width, height, rx: 6 }));
    const told = width > 260 ? fitted(some, room * 0.42, plain) : item.macs ? share(item.macs) : "";
    parts.push(svg("text", { class: "name", x: 24, y: 17 }, fitted(label(item), item.open ? room - wide(told, plain) - 6 : room, strong)));
    parts.push(svg("path", { class: "caret", d: item.open ? "M9 10h9l-4.5 6z" : "M10 9v9l6-4.5z" }));
    if (item.open) parts.push(svg("text", { class: "what", x: width - 8, y: 17, "text-anchor": "end" }, told));
    else parts.push(svg("text", { class: "what", x: 24, y: 32 }, hits ? `${hits} found` : some));
    if (!item.open && item.macs) parts.push(svg("rect", { class: "cost", x: 0, y: height - 3, width: Math.max(1, width * item.macs / totalMacs), height: 3 }));
    return svg("g", { class: classes, transform: at(x, y), "data-box": item.box }, ...parts);
  };
  const layerOf = (item, x, y) => {
    const { layer } = item;
    const classes = ["layer", `kind-${kind(layer)}`];
    if (layer === selection.layer) classes.push("chosen");
    if (network.matches.has(layer)) classes.push("match");
    const origin = originOf(layers.origin[layer]);
    if (origin) classes.push("rewritten");
    const [width, height] = [item.width, item.height];
    const name = label(item);
    const what = said("text", layer);
    const parts = [svg("title", {}, `${layers.name[layer]}: ${what}, ${said("shape", layer)}, ${short(layers.macs[layer])} MACs${origin ? `; stands for ${origin.name} ${origin.text}` : ""}`)];
    parts.push(svg("rect", { class: "face", width, height, rx: isSmall(layer) ? 10 : 5 }));
    if (isSmall(layer)) {
      parts.push(svg("circle", { class: "stripe", cx: 11, cy: height / 2, r: 4 }));
      parts.push(svg("text", { class: "what", x: 20, y: 14 }, fitted(what === said("op", layer) ? name : what, width - 28, plain)));
    } else {
      parts.push(svg("path", { class: "stripe", d: `M5 0A5 5 0 0 0 0 5V${height - 5}A5 5 0 0 0 5 ${height}Z` }));
      parts.push(svg("text", { class: "name", x: 12, y: 16 }, fitted(name, width - (origin ? 28 : 18), strong)));
      parts.push(svg("text", { class: "what", x: 12, y: 30 }, fitted(what, width - 18, plain)));
      if (layers.macs[layer]) parts.push(svg("rect", { class: "cost", x: 5, y: height - 3, width: Math.max(1, (width - 8) * layers.macs[layer] / mostMacs), height: 3 }));
    }
    if (origin) parts.push(svg("path", { class: "swap", d: `M${width - 11} 1H${width - 1}V11Z` }));
    return svg("g", { class: classes.join(" "), transform: at(x, y), "data-layer": layer }, ...parts);
  };
  const endOf = (item, x, y) => {
    const [width, height] = layout.end;
    return svg("g", { class: "end", transform: at(x, y) }, svg("title", {}, `${item.kind} ${item.name}`),
      svg("rect", { class: "face", width, height, rx: 12 }),
      svg("text", { class: "what", x: width / 2, y: 16, "text-anchor": "middle" }, fitted(item.kind === "input" ? `${item.name} ${item.text}` : `${item.name}`, width - 16, plain)));
  };
  const inside = (box) => box.all ??= box.children.flatMap((item) => item.kind === "box" ? inside(item) : item.kind === "layer" ? [item.layer] : []);
  const isInside = (item, box) => {
    for (let around = item.parent; around; around = around.parent) if (around === box) return true;
    return false;
  };

  const toggle = (box) => {
    const [, before] = corner(box);
    open(box, !box.open);
    lay();
    const [, after] = corner(box);
    graph.scrollTop += (after - before) * network.scale;
    draw();
  };
  const scrollTo = (item, always) => {
    const [x, y] = corner(item);
    const { scale } = network;
    const [left, top] = [x * scale, y * scale];
    const [width, height] = [item.width * scale, item.height * scale];
    const out = left < graph.scrollLeft || left + width > graph.scrollLeft + graph.clientWidth ||
      top < graph.scrollTop || top + height > graph.scrollTop + graph.clientHeight;
    if (out || always) {
      graph.scrollLeft = left + width / 2 - graph.clientWidth / 2;
      graph.scrollTop = top + height / 2 - graph.clientHeight / 2;
    }
  };
  const reveal = (item) => {
    let closed = false;
    for (let box = item.parent; box; box = box.parent) {
      if (!box.open) {
        open(box, true);
        closed = true;
      }
    }
    if (closed) lay();
    scrollTo(item, closed);
    draw();
  };
  network.redraw = () => {
    network.drawnFor = "";
    draw();
  };
  network.corner = (layer) => corner(leaves[layer]);

  const zoom = (factor) => {
    const { scale } = network;
    const [x, y] = [(graph.scrollLeft + graph.clientWidth / 2) / scale, (graph.scrollTop + graph.clientHeight / 2) / scale];
    network.scale = Math.min(2, Math.max(0.12, scale * factor));
    resize();
    graph.scrollLeft = x * network.scale - graph.clientWidth / 2;
    graph.scrollTop = y * network.scale - graph.clientHeight / 2;
    draw();
  };
  const fit = (least) => {
    const wide = (graph.clientWidth - 4) / root.width;
    network.scale = Math.min(1, Math.max(least, wide));
    resize();
    graph.scrollLeft = (root.width * network.scale - graph.clientWidth) / 2;
    draw();
  };

  graph.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  new ResizeObserver(() => draw()).observe(graph);
  canvas.addEventListener("click", (event) => {
    const layer = event.target.closest("[data-layer]");
    const box = event.target.closest("[data-box]");
    if (layer) selection.choose(Number(layer.dataset.layer), "graph");
    else if (box && (!boxes[box.dataset.box].open || event.offsetY !== undefined)) {
      const item = boxes[Number(box.dataset.box)];
      const [, y] = corner(item);
      const down = (event.clientY - canvas.getBoundingClientRect().top) / network.scale;
      if (!item.open || down < y + layout.head) toggle(item);
    }
  });
  graph.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
  }, { passive: false });

  // Up and down follow edges; left and right go to what stands beside; Enter opens and closes.
  const neighbor = (item, sign) => {
    const [x, y] = corner(item);
    const visible = leaves.filter((other) => other !== item && isShown(other));
    let best = null;
    for (const other of visible) {
      const [left, top] = corner(other);
      const away = sign * (left + other.width / 2 - x - item.width / 2);
      const apart = Math.abs(top + other.height / 2 - y - item.height / 2);
      if (away > 20 && apart < 60 && (!best || away + 3 * apart < best.score)) best = { other, score: away + 3 * apart };
    }
    return best?.other;
  };
  graph.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const item = leaves[selection.layer];
    const steps = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 };
    if (event.key in steps) {
      let next = 0;
      if (item && event.key.endsWith("Up")) next = sources[item.layer].find((layer) => layer >= 0);
      else if (item && event.key.endsWith("Down")) next = users[item.layer][0];
      else if (item) next = neighbor(item, steps[event.key])?.layer;
      if (next !== undefined) selection.choose(next, "graph");
    } else if (event.key === "Enter" || event.key === " ") {
      if (!item || item.parent === root) return;
      let box = item.parent;
      while (box.parent !== root && !isShown(box)) box = box.parent;
      toggle(box);
    } else return;
    event.preventDefault();
  });

  find("open-all").addEventListener("click", () => {
    boxes.forEach((box) => open(box, true));
    lay();
    fit(0.85);
  });
  find("close-all").addEventListener("click", () => {
    boxes.forEach((box) => open(box, false));
    lay();
    fit(0.85);
  });
  find("larger").addEventListener("click", () => zoom(1.25));
  find("smaller").addEventListener("click", () => zoom(0.8));
  find("fit").addEventListener("click", () => fit(0.15));

  selection.listen((layer, origin) => origin === "start" ? network.redraw() : reveal(leaves[layer]));
  const used = new Set(layers.op.map((_, layer) => kind(layer)));
  find("kinds").append(...kinds.filter(([name]) => used.has(name)).map(([name, words]) => html("span", {}, html("i", { class: `key kind-${name}` }), ` ${words}`)),
    ...(isRewritten ? [html("span", {}, html("i", { class: "key swap" }), " stands for a layer of the original")] : []));
  if (!boxes.length) for (const each of ["open-all", "close-all"]) find(each).hidden = true;
  openSome(70);
  lay();
  fit(0.85);
}
