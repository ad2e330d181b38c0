// All layers in a table, and the search that goes through it.
{
  const timed = new Map((portrait.kernels?.of ?? []).map(([layer, group]) => [layer, portrait.kernels.groups[group].find((row) => row[4])]));
  const columns = [
    ["layer", false], ["operator", false], ...(isRewritten ? [["stands for", false]] : []), ["output", false], ["parameters", true], ["MACs", true], ["share", true],
    ["sees", true], ["stride", true], ["alive", true], ["ops/byte", true], ...(portrait.kernels ? [["ms", true]] : []),
  ];
  const originText = (layer) => {
    const origin = originOf(layers.origin[layer]);
    return origin ? `${origin.name}${origin.text ? `: ${origin.text}` : ""}` : "";
  };
  const first = (column, layer) => {
    const view = portrait.views[layers.view[layer]];
    const axis = view?.axes[0];
    if (!axis?.phases) return 2 ** 53;
    if (column === "stride") return axis.step / axis.phases.length;
    return Math.max(0, ...axis.phases.map((seen) => seen ? seen[1] - seen[0] + 1 : 0));
  };
  const rows = layers.name.map((name, layer) => {
    const unknown = layers.status[layer] === 2;
    const number = (text, value) => html("td", { class: "number", "data-value": unknown ? -1 : value }, unknown ? "?" : text);
    const macs = layers.macs[layer];
    const works = intensity(layer);
    const row = html("tr", { id: `row-${layer}`, class: ["", "free", "unsupported"][layers.status[layer]] || null },
      html("th", { scope: "row" }, html("a", { href: `#layer=${encodeURIComponent(name)}` }, name)),
      html("td", { class: "notation" }, said("text", layer)),
      isRewritten ? html("td", { class: "notation origin" }, originText(layer)) : null,
      html("td", {}, said("shape", layer)),
      number(layers.params[layer] ? whole(layers.params[layer]) : "–", layers.params[layer]),
      number(macs ? whole(macs) : "–", macs),
      number(macs && totalMacs ? percent(macs / totalMacs) : "–", macs),
      html("td", { class: "number", "data-value": first("sees", layer) }, said("sees", layer)),
      html("td", { class: "number", "data-value": first("stride", layer) }, said("stride", layer)),
      number(bytes(layers.alive[layer]), layers.alive[layer]),
      number(ratio(works), works ?? -1));
    if (portrait.kernels) {
      const time = timed.get(layer)?.[2];
      row.append(html("td", { class: "number", "data-value": time ?? -1 }, time === undefined || time === null ? "" : time.toPrecision(3)));
    }
    row.addEventListener("click", (event) => {
      if (!event.target.closest("a") && !String(getSelection())) selection.choose(layer, "table");
    });
    return row;
  });
  const table = html("table", {}, html("thead", {}, html("tr", {},
    ...columns.map(([name, numeric]) => html("th", { scope: "col", class: numeric ? "number" : null }, name)))), html("tbody", {}, ...rows));
  const box = find("table");
  box.append(table);
  makeSortable(table);

  let marked = null;
  selection.listen((layer, origin) => {
    marked?.classList.remove("chosen");
    marked?.removeAttribute("aria-current");
    marked = rows[layer];
    marked.classList.add("chosen");
    marked.setAttribute("aria-current", "true");
    if (origin !== "table") {
      const head = table.tHead.offsetHeight;
      const [top, bottom] = [marked.offsetTop - head, marked.offsetTop + marked.offsetHeight - box.clientHeight];
      if (box.scrollTop > top || box.scrollTop < bottom) box.scrollTop = marked.offsetTop - box.clientHeight / 2;
    }
  });

  const search = find("search");
  const texts = layers.name.map((name, layer) => `${name} ${said("op", layer)} ${said("text", layer)} ${said("shape", layer)} ${originText(layer)}`.toLowerCase());
  let matches = [];
  const look = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    matches = words.length ? texts.flatMap((text, layer) => words.every((word) => text.includes(word)) ? [layer] : []) : [];
    network.matches = new Set(matches);
    rows.forEach((row, layer) => {
      row.hidden = words.length > 0 && !network.matches.has(layer);
    });
    find("found").textContent = words.length ? `${matches.length} of ${count} layers` : "";
    network.redraw();
  };
  search.addEventListener("input", look);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && matches.length) {
      const next = event.shiftKey ? [...matches].reverse().find((layer) => layer < selection.layer) : matches.find((layer) => layer > selection.layer);
      selection.choose(next ?? matches[event.shiftKey ? matches.length - 1 : 0], "search");
      event.preventDefault();
    } else if (event.key === "Escape") {
      search.value = "";
      look();
    }
  });
}
