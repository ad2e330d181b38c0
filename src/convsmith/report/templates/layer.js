// The chosen layer in numbers and formulas.
{
  const panel = find("layer-panel");

  // A formula: letters slanted, indices below.
  const formula = (text) => {
    const parts = [];
    let end = 0;
    for (const found of text.matchAll(/(?<![\w])([A-Za-z])(?:_([a-z0-9]+))?(?![A-Za-z0-9])/g)) {
      parts.push(text.slice(end, found.index), html("i", {}, found[1]));
      if (found[2]) parts.push(html("sub", {}, found[2]));
      end = found.index + found[0].length;
    }
    parts.push(text.slice(end));
    return parts;
  };
  const links = (places) => {
    const some = places.slice(0, 12);
    const parts = some.flatMap((place, index) => [index ? ", " : "",
      place < 0 ? `input ${portrait.inputs[-1 - place][0]}` : html("a", { href: `#layer=${encodeURIComponent(layers.name[place])}` }, layers.name[place])]);
    if (places.length > some.length) parts.push(` and ${places.length - some.length} more`);
    return parts.length ? parts : ["–"];
  };
  const pair = (term, ...content) => [html("dt", {}, term), html("dd", {}, ...content)];
  const changes = new Map(portrait.plan.map(([layer, ...rest]) => [layer, rest]));
  const groups = new Map(portrait.kernels?.of ?? []);

  const show = (layer) => {
    const macs = layers.macs[layer];
    const unknown = layers.status[layer] === 2;
    const facts = [
      ...pair("output", said("shape", layer)),
      ...pair("multiply-accumulates", unknown ? "not known" : whole(macs), macs && totalMacs ? html("small", {}, ` ${percent(macs / totalMacs)} of the network`) : null),
      ...pair("parameters", whole(layers.params[layer])),
      ...pair("operations per byte", ratio(intensity(layer))),
      ...pair("alive while it runs", bytes(layers.alive[layer])),
      ...pair("sees", said("sees", layer), html("small", {}, ` stride ${said("stride", layer)}, offset ${said("offset", layer)}`)),
      ...pair("uses", ...links(sources[layer])),
      ...pair("used by", ...links(users[layer])),
    ];
    if (said("reason", layer)) facts.push(...pair(unknown ? "not counted" : "free", said("reason", layer)));
    const origin = originOf(layers.origin[layer]);
    if (origin) {
      const change = origin.before ? `, ${short(origin.before)} → ${short(origin.after)} MACs, error as fitted ${(100 * origin.error).toPrecision(2)} %` : "";
      facts.push(...pair("stands for", `${origin.name} of the original network`, origin.text ? ": " : null, html("span", { class: "notation" }, origin.text),
        origin.form ? html("small", {}, ` by ${origin.form}${change}`) : null));
    }
    const change = changes.get(layer);
    if (change) {
      const [form, text, before, after, error] = change;
      facts.push(...pair("rewrite", form === "keep" ? "kept as it is" : `${form}: `, form === "keep" ? null : html("span", { class: "notation" }, text),
        form === "keep" ? null : html("small", {}, ` ${short(before)} → ${short(after)} MACs, error as fitted ${(100 * error).toPrecision(2)} %`)));
    }
    const [title, lines, notes] = layers.formulas[layer];
    const formulas = [];
    let before = "";
    for (const line of lines) {
      const [name, ...steps] = portrait.lines[line].map((text) => portrait.strings[text]);
      formulas.push(html("dt", {}, name === before ? "" : name), html("dd", { class: "formula" },
        ...steps.flatMap((step, index) => [index ? " " : "", html("span", {}, index ? "= " : "", ...formula(step))])));
      before = name;
    }
    const kernels = groups.has(layer) ? portrait.kernels.groups[groups.get(layer)] : [];
    const slowest = Math.max(1e-9, ...kernels.map((row) => row[2] ?? 0));
    panel.replaceChildren(...[
      html("h3", {}, layers.name[layer]),
      html("p", {}, `${portrait.strings[title]}: `, html("span", { class: "notation" }, said("text", layer))),
      html("dl", { class: "numbers" }, ...facts),
      kernels.length ? html("h4", {}, "Kernels") : null,
      kernels.length ? html("div", { class: "times", role: "table", "aria-label": "Milliseconds" }, ...kernels.map(([name, who, time, , chosen, reason]) =>
        html("div", { role: "row", class: chosen ? "chosen" : who }, html("span", { role: "rowheader" }, name + (chosen ? ", chosen" : "")),
          html("span", { role: "cell", class: "drawn" }, svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
            svg("rect", { class: who === "peer" ? "before" : "after", width: 100 * (time ?? 0) / slowest, height: 10 }))),
          html("span", { role: "cell" }, time === null ? reason : `${time.toPrecision(3)} ms`)))) : null,
      formulas.length ? html("h4", {}, "Formulas") : null,
      html("dl", { class: "formulas" }, ...formulas),
      ...notes.map((note) => html("p", { class: "quiet" }, portrait.strings[note])),
    ].filter(Boolean));
  };
  selection.listen(show);

  // The moment at which it runs, on the curve of memory.
  const curve = find("curve-now");
  selection.listen((layer) => {
    if (!curve) return;
    curve.style.left = `${100 * (layer + 0.5) / count}%`;
    curve.dataset.text = bytes(layers.alive[layer]);
    curve.classList.add("shown");
    curve.classList.toggle("late", layer > count / 2);
  });
}
