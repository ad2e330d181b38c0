// The input beside the feature map of the chosen layer: what a unit sees, and whom a pixel reaches.
const viewer = { layer: -1, position: [], pixel: null, isPixel: false };
if (find("field")) {
  const imageStage = find("image-stage");
  const mapStage = find("map-stage");
  const rank = portrait.image.length;
  // One axis is drawn as a strip, two as they are, of more the last two; the others are numbers.
  const flat = (sizes) => sizes.length === 0 ? [1, 1] : sizes.length === 1 ? [Math.max(1, Math.round(sizes[0] / 12)), sizes[0]] : sizes.slice(-2);
  const extent = flat(portrait.image);
  const span = (seen) => rank === 1 ? [[0, extent[0] - 1], seen[0]] : seen.slice(-2);
  const canvas = svg("svg", { "aria-hidden": "true", preserveAspectRatio: "xMidYMid meet" });
  const map = svg("svg", { "aria-hidden": "true", preserveAspectRatio: "xMidYMid meet" });
  imageStage.append(canvas);
  mapStage.append(map);
  if (rank === 1) for (const stage of [imageStage, mapStage]) stage.classList.add("strip");
  find("input-size").textContent = portrait.image.join(" × ");

  // How far the fields of a layer reach beyond the image, so that all of them can be drawn.
  const overhang = (view) => {
    const beyond = [0, 0];
    view.axes.forEach((axis, index) => {
      const side = index - (rank - 2);
      if (side < 0 || !axis.phases) return;
      const last = axis.axis < 0 ? 0 : view.size[axis.axis] - 1;
      const period = axis.phases.length;
      for (let p = 0; p < Math.min(period, last + 1); p += 1) {
        for (const seen of [seenByRule(axis, p), seenByRule(axis, last - p)]) {
          if (seen) beyond[side] = Math.max(beyond[side], -seen[0], seen[1] - portrait.image[index] + 1);
        }
      }
    });
    return beyond.map((pixels, side) => Math.min(pixels, 4 * extent[side]) + 0.02 * extent[side]);
  };
  const box = ([rows, columns], attributes) => svg("rect", { x: columns[0], y: rows[0], width: columns[1] - columns[0] + 1, height: rows[1] - rows[0] + 1, ...attributes });
  const outline = ([rows, columns]) => `M${columns[0]} ${rows[0]}H${columns[1] + 1}V${rows[1] + 1}H${columns[0]}Z`;

  // A picture says nothing about one axis: a sound does.
  const wave = () => svg("path", { class: "wave", d: Array.from({ length: 401 }, (_, step) => {
    const t = step / 400;
    const loud = Math.sin(3.1 * t * Math.PI) ** 2 * (0.35 + 0.65 * Math.sin(41 * t) ** 2);
    return `${step ? "L" : "M"}${(t * extent[1]).toFixed(2)} ${(extent[0] * (0.5 + 0.46 * loud * Math.sin(260 * t))).toFixed(2)}`;
  }).join("") });

  const drawImage = () => {
    const { layer, position, pixel, isPixel } = viewer;
    const view = viewOf(layer);
    const known = view && view.axes.length;
    const [tall, wide] = known ? overhang(view) : extent.map((size) => 0.02 * size);
    const [width, height] = [extent[1] + 2 * wide, extent[0] + 2 * tall];
    const fine = Math.max(width, height) / 70;
    canvas.setAttribute("viewBox", `${-wide} ${-tall} ${width} ${height}`);
    canvas.dataset.layer = layer;
    const parts = [
      svg("defs", {}, svg("pattern", { id: "hatch", width: fine, height: fine, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        svg("rect", { class: "hatch-paper", width: fine, height: fine }), svg("rect", { class: "hatch-line", width: fine / 3, height: fine }))),
      rank === 1 ? wave() : svg("use", { href: "#scene", x: 0, y: 0, width: extent[1], height: extent[0] }),
      svg("rect", { class: "frame", x: 0, y: 0, width: extent[1], height: extent[0] }),
    ];
    const heat = portrait.effective.find((each) => each.layer === layer && each.picture);
    find("heat-label").hidden = !heat;
    if (heat && find("heat").checked) {
      parts.push(svg("rect", { class: "shade", x: 0, y: 0, width: extent[1], height: extent[0] }));
      parts.push(svg("image", { href: heat.picture, class: "heat", x: 0, y: 0, width: extent[1], height: extent[0], preserveAspectRatio: "none" }));
    }
    if (known && isPixel) {
      const [row, column] = rank === 1 ? [0, pixel[0]] : pixel.slice(-2);
      parts.push(svg("path", { class: "cross", d: `M${column + 0.5} 0V${extent[0]}M0 ${row + 0.5}H${extent[1]}` }));
      parts.push(svg("rect", { class: "pixel", x: column, y: rank === 1 ? 0 : row, width: 1, height: rank === 1 ? extent[0] : 1 }));
    } else if (known) {
      const { rule, real } = sightOf(layer, position);
      if (view.axes.some((axis) => axis.everywhere)) parts.push(svg("rect", { class: "everywhere", x: 0, y: 0, width: extent[1], height: extent[0] }));
      const outside = rule.every(Boolean) ? span(rule) : null;
      const inside = real && span(real);
      if (outside) parts.push(svg("path", { class: "padding", "fill-rule": "evenodd", fill: "url(#hatch)", d: outline(outside) + (inside ? outline(inside) : "") }));
      if (inside) {
        parts.push(box(inside, { class: "seen-fill" }));
        parts.push(...holes(view, position, inside));
        parts.push(box(inside, { class: "halo" }), box(inside, { class: "seen-line", id: "seen" }));
      }
      if (outside) parts.push(...anchors(outside));
    }
    canvas.replaceChildren(...parts);
  };

  // Pixels between first and last that are not seen: dilation.
  const holes = (view, position, [rows, columns]) => {
    const found = [];
    view.axes.forEach((axis, index) => {
      const side = index - (rank - 2);
      if (side < 0 || !axis.support) return;
      const [first, last] = side === 0 ? rows : columns;
      if (last - first > 512) return;
      const gaps = Array.from({ length: last - first + 1 }, (_, at) => !hasPixel(axis, indexOn(axis, position), first + at));
      for (const [start, end] of runs(gaps)) {
        const strip = [first + start, first + end];
        found.push(box(side === 0 ? [strip, columns] : [rows, strip], { class: "hole" }));
      }
    });
    return found;
  };

  const anchors = ([rows, columns]) => {
    const [y, x] = [(rows[0] + rows[1] + 1) / 2, (columns[0] + columns[1] + 1) / 2];
    return sizes().map(([height, width]) => svg("rect", { class: "anchor", x: x - width / 2, y: y - height / 2, width, height }));
  };
  const sizes = () => [...find("anchors").value.matchAll(/(\d+(?:\.\d+)?)(?:\s*[x×]\s*(\d+(?:\.\d+)?))?/g)].slice(0, 20)
    .map(([, height, width]) => [Number(height), Number(width ?? height)]).filter(([height, width]) => height > 0 && width > 0 && height < 1e5 && width < 1e5);

  const drawMap = () => {
    const { layer, position, pixel, isPixel } = viewer;
    const view = viewOf(layer);
    const [rows, columns] = flat(view?.size ?? []);
    map.setAttribute("viewBox", `${-0.02 * columns} ${-0.02 * rows} ${1.04 * columns} ${1.04 * rows}`);
    const parts = [svg("rect", { class: "map-face", x: 0, y: 0, width: columns, height: rows })];
    const isStrip = view?.size.length === 1;
    if (columns <= 64) parts.push(svg("path", { class: "grid", d: Array.from({ length: columns - 1 }, (_, i) => `M${i + 1} 0V${rows}`).join("") }));
    if (rows <= 64 && !isStrip) parts.push(svg("path", { class: "grid", d: Array.from({ length: rows - 1 }, (_, i) => `M0 ${i + 1}H${columns}`).join("") }));
    if (view?.axes.length && isPixel) {
      const reached = reachOf(layer, pixel);
      if (reached) {
        const across = reached.length ? runs(reached.at(-1)) : [[0, 0]];
        const down = reached.length > 1 ? runs(reached.at(-2)) : [[0, rows - 1]];
        for (const one of down.slice(0, 200)) for (const other of across.slice(0, 200)) parts.push(box([one, other], { class: "reached" }));
      }
    } else if (view) {
      const [row, column] = isStrip ? [0, position[0]] : position.length ? position.slice(-2) : [0, 0];
      const place = [isStrip ? [0, rows - 1] : [row, row], [column, column]];
      const wide = Math.max(rows, columns) / 70; // a unit of a large map would be too small to see
      if (wide > 1) parts.push(svg("circle", { class: "unit-ring", cx: column + 0.5, cy: (isStrip ? rows / 2 : row + 0.5), r: 1.6 * wide }));
      parts.push(box(place, { class: "unit", id: "unit" }));
    }
    map.replaceChildren(...parts);
  };

  const names = (many, labels) => labels.slice(-many);
  const axisNames = (many) => many === 1 ? ["position"] : names(many, [...Array.from({ length: Math.max(0, many - 3) }, (_, i) => `axis ${i + 1}`), "plane", "row", "column"]);
  const range = ([first, last]) => first === last ? `${first}` : `${first}–${last}`;
  const describe = () => {
    const { layer, position, pixel, isPixel } = viewer;
    const view = viewOf(layer);
    const output = find("sight");
    const name = layers.name[layer];
    delete output.dataset.rectangle;
    if (!view) return `${name} does not depend on this input.`;
    if (!view.axes.length) return `What ${name} sees is not known: ${view.reason}.`;
    const labels = axisNames(rank);
    const unitLabels = axisNames(view.size.length);
    const unit = position.length ? position.map((at, index) => `${unitLabels[index]} ${at}`).join(", ") : "its only unit";
    if (isPixel) {
      const from = `Pixel ${pixel.map((at, index) => `${labels[index]} ${at}`).join(", ")}`;
      const reached = reachOf(layer, pixel);
      output.dataset.reached = JSON.stringify(reached && reached.map((flags) => runs(flags)));
      if (!reached) return `${from} reaches no unit of ${name}.`;
      const many = reached.reduce((product, flags) => product * flags.filter(Boolean).length, 1);
      const where = reached.map((flags, index) => {
        const [first, last] = [flags.indexOf(true), flags.lastIndexOf(true)];
        return `${unitLabels[index]}${first === last ? "" : "s"} ${range([first, last])}`;
      });
      const most = view.status === "upper-bound" ? "at most " : "";
      return `${from} reaches ${most}${whole(many)} unit${many === 1 ? "" : "s"} of ${name}${where.length ? `: ${where.join(", ")}` : ""}.${gated(view)}`;
    }
    const { rule, real } = sightOf(layer, position);
    output.dataset.rectangle = JSON.stringify(real);
    output.dataset.rule = JSON.stringify(rule);
    if (!real) return `${name}, ${unit}: sees nothing of the input.`;
    const seen = real.map((pixels, index) => `${labels[index]}${pixels[0] === pixels[1] ? "" : "s"} ${range(pixels)}`).join(", ");
    const size = real.map(([first, last]) => whole(last - first + 1)).join(" × ");
    const padding = rule.flatMap((pixels, index) => pixels ? [
      [Math.max(0, real[index][0] - pixels[0]), labels[index], "before"], [Math.max(0, pixels[1] - real[index][1]), labels[index], "after"]] : [])
      .filter(([many]) => many > 0).map(([many, axis, where]) => `${whole(many)} ${axis}${many > 1 ? "s" : ""} ${where}`);
    const most = { "upper-bound": "at most ", global: "the whole input: " }[view.status] ?? "";
    const bare = view.axes.map((axis, index) => axis.support ? Array.from({ length: real[index][1] - real[index][0] + 1 },
      (_, at) => hasPixel(axis, indexOn(axis, position), real[index][0] + at)).filter(Boolean).length : null);
    const dense = bare.some((many) => many !== null) ? ` With holes: ${bare.map((many, index) => `${many ?? real[index][1] - real[index][0] + 1} of ${real[index][1] - real[index][0] + 1} ${labels[index]}s`).join(", ")}.` : "";
    return `${name}, ${unit}: sees ${most}${seen}, ${size} pixels${padding.length ? `; in the padding: ${padding.join(", ")}` : ""}.${dense}${gated(view)}${
      view.followed ? "" : " Cut off at the edge of the input; the borders in between were not followed."}${view.status === "upper-bound" && view.reason ? ` An upper bound: ${view.reason}.` : ""}`;
  };
  const gated = (view) => view.status !== "global" && view.axes.some((axis) => axis.everywhere) ? ` Besides, all of the input: ${view.reason}.` : "";

  const drawAll = () => {
    drawImage();
    drawMap();
    find("sight").textContent = describe();
    for (const input of find("unit-inputs").querySelectorAll("input")) if (input !== document.activeElement) input.value = viewer.position[input.dataset.axis];
  };
  let waiting = false;
  viewer.draw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawAll();
    });
  };
  viewer.look = (position) => {
    const sizesOf = viewOf(viewer.layer)?.size ?? [];
    viewer.position = sizesOf.map((size, index) => Math.min(Math.max(Math.round(position[index] ?? 0), 0), size - 1));
    viewer.isPixel = false;
    viewer.draw();
  };
  const reach = (pixel) => {
    viewer.pixel = portrait.image.map((size, index) => Math.min(Math.max(Math.floor(pixel[index]), 0), size - 1));
    viewer.isPixel = true;
    viewer.draw();
  };

  selection.listen((layer) => {
    const before = viewOf(viewer.layer)?.size ?? [];
    const now = viewOf(layer)?.size ?? [];
    // The unit stays where it is, in relation to the map.
    const position = now.map((size, index) => {
      const was = before[before.length - now.length + index];
      return was === undefined ? Math.floor(size / 2) : Math.floor((viewer.position[before.length - now.length + index] + 0.5) / was * size);
    });
    viewer.layer = layer;
    viewer.position = position;
    find("map-name").textContent = `${layers.name[layer]}, ${now.join(" × ") || "one unit"}`;
    find("unit-inputs").replaceChildren(...(now.length ? ["Unit "] : []), ...axisNames(now.length).slice(0, now.length).map((name, index) => {
      const input = html("input", { type: "number", min: 0, max: now[index] - 1, "data-axis": index });
      input.addEventListener("input", () => {
        if (input.value !== "") viewer.look(viewer.position.map((at, axis) => axis === index ? Number(input.value) : at));
      });
      return html("label", {}, `${name} `, input, " ");
    }));
    viewer.draw();
  });

  // Where a pointer is, in the units of a drawing.
  const pointed = (drawing, event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    return [point.y, point.x];
  };
  const follow = (event) => {
    const [y, x] = pointed(map, event);
    const size = viewOf(viewer.layer)?.size ?? [];
    const position = [...viewer.position];
    if (size.length > 1) position[size.length - 2] = Math.floor(y);
    if (size.length) position[size.length - 1] = Math.floor(x);
    viewer.look(position);
  };
  map.addEventListener("pointermove", follow);
  map.addEventListener("pointerdown", follow);
  const touch = (event) => {
    const [y, x] = pointed(canvas, event);
    const pixel = viewer.pixel ? [...viewer.pixel] : portrait.image.map((size) => Math.floor(size / 2));
    if (rank > 1) pixel[rank - 2] = y;
    pixel[rank - 1] = x;
    reach(pixel);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    touch(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) touch(event);
  });
  const steps = { ArrowUp: [2, -1], ArrowDown: [2, 1], ArrowLeft: [1, -1], ArrowRight: [1, 1] };
  const moved = (event, place, sizesOf) => {
    const next = [...place];
    if (event.key in steps) {
      const [fromEnd, sign] = steps[event.key];
      if (next.length < fromEnd) return null;
      next[next.length - fromEnd] += sign * (event.shiftKey ? 10 : 1);
    } else if (event.key === "Home" && next.length) next[next.length - 1] = 0;
    else if (event.key === "End" && next.length) next[next.length - 1] = sizesOf.at(-1) - 1;
    else return null;
    return next;
  };
  mapStage.addEventListener("keydown", (event) => {
    const next = moved(event, viewer.position, viewOf(viewer.layer)?.size ?? []);
    if (!next) return;
    event.preventDefault();
    viewer.look(next);
  });
  imageStage.addEventListener("keydown", (event) => {
    const now = viewer.pixel ?? portrait.image.map((size) => Math.floor(size / 2));
    const next = event.key === "Enter" ? now : moved(event, now, portrait.image);
    if (!next) return;
    event.preventDefault();
    reach(next);
  });
  find("anchors").addEventListener("input", viewer.draw);
  find("heat").addEventListener("change", viewer.draw);
}
