// The chosen layer: one for the whole page, and in its address.
const selection = {
  layer: -1,
  listeners: [],
  listen(listener) {
    this.listeners.push(listener);
  },
  // `origin` names who chose, so that it need not move what the reader is looking at.
  choose(layer, origin = "") {
    if (!(layer >= 0 && layer < count)) return;
    const address = `#layer=${encodeURIComponent(layers.name[layer])}`;
    if (location.hash !== address) history.replaceState(null, "", address);
    if (layer === this.layer && origin !== "address") return;
    this.layer = layer;
    for (const listener of this.listeners) listener(layer, origin);
  },
  fromAddress() {
    const found = /^#layer=(.*)$/.exec(location.hash);
    if (!found) return false;
    let name = found[1];
    try {
      name = decodeURIComponent(name);
    } catch { /* a name with a bare percent sign */ }
    const layer = placeOf.get(name);
    if (layer === undefined) return false;
    this.choose(layer, "address");
    return true;
  },
};
addEventListener("hashchange", () => selection.fromAddress());
