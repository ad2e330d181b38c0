// How fields and strides grow from layer to layer, and a slider that goes along.
if (find("field")) {
  const steps = layers.name.flatMap((_, layer) => viewOf(layer)?.axes.length ? [layer] : []);
  const slider = find("depth");
  slider.max = Math.max(steps.length - 1, 0);
  const say = () => {
    const layer = steps[Number(slider.value)];
    const text = layer === undefined ? "" : `${layers.name[layer]}: sees ${said("sees", layer)}, stride ${said("stride", layer)}`;
    find("depth-layer").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", () => selection.choose(steps[Number(slider.value)], "depth"));

  // Two curves on a logarithmic axis; a field that is not bounded counts as the whole input.
  const most = Math.max(2, ...portrait.image);
  const sizeAt = (layer) => Math.max(1, ...viewOf(layer).axes.map((axis, index) =>
    axis.phases ? Math.max(0, ...axis.phases.map((seen) => seen ? seen[1] - seen[0] + 1 : 0)) : portrait.image[index]));
  const strideAt = (layer) => Math.max(...viewOf(layer).axes.map((axis) => axis.phases ? axis.step / axis.phases.length : 0));
  // Layers that see everything through a gate have no size of their own: the curve leaves them out.
  const values = steps.map((layer) => viewOf(layer).status === "global" ? [null, null] : [sizeAt(layer), strideAt(layer)]);
  const top = 1.06 * Math.log2(Math.max(most, ...values.map(([size]) => size ?? 1)));
  const low = Math.min(0, ...values.map(([, stride]) => stride > 0 ? Math.log2(stride) : 0)) - 0.3;
  const [width, height] = [1000, 100];
  const y = (value) => value > 0 ? height - height * (Math.log2(value) - low) / (top - low) : null;
  const curve = (index) => {
    let path = "";
    let last = -2;
    values.forEach((pair, place) => {
      const at = y(pair[index]);
      if (at === null) return;
      const [left, right] = [place, place + 1].map((step) => (width * step / values.length).toFixed(1));
      path += `${path && (last === place - 1 || index) ? "L" : "M"}${left} ${at.toFixed(1)}H${right}`;
      last = place;
    });
    return path;
  };
  const marker = svg("line", { class: "now", y1: 0, y2: height });
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("line", { class: "edge-line", x1: 0, x2: width, y1: y(most), y2: y(most) }),
    svg("path", { class: "stride-line", d: curve(1) }), svg("path", { class: "size-line", d: curve(0) }), marker);
  chart.addEventListener("pointerdown", (event) => {
    const box = chart.getBoundingClientRect();
    const step = Math.floor((event.clientX - box.left) / box.width * steps.length);
    if (steps[step] !== undefined) selection.choose(steps[step], "depth");
  });
  if (steps.length) {
    find("growth").append(chart, html("p", { class: "legend" },
      html("span", {}, html("i", { class: "key size-key" }), " size of the field"), html("span", {}, html("i", { class: "key stride-key" }), " stride"),
      html("span", {}, html("i", { class: "key edge-key" }), ` the input, ${most} pixels`), html("span", {}, "axis: powers of two")));
  }
  selection.listen((layer) => {
    let place = steps.findIndex((each) => each >= layer);
    if (place < 0) place = steps.length - 1;
    slider.value = place;
    const x = width * (place + 0.5) / Math.max(steps.length, 1);
    marker.setAttribute("x1", x);
    marker.setAttribute("x2", x);
    say();
  });
}
