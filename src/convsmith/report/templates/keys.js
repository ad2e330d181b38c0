// Keys that work everywhere, the help, and what is chosen at first.
{
  const help = find("help");
  const button = find("help-button");
  button.hidden = false;
  button.addEventListener("click", () => help.showModal());
  find("help-close").addEventListener("click", () => help.close());
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
    if (event.key === "?") help.showModal();
    else if (event.key === "/") {
      find("search").focus();
      find("search").select();
    } else if (event.key === "j") selection.choose(Math.min(selection.layer + 1, count - 1), "keys");
    else if (event.key === "k") selection.choose(Math.max(selection.layer - 1, 0), "keys");
    else return;
    event.preventDefault();
  });
  if (!selection.fromAddress() && count) {
    // The most expensive layer: nothing has to be clicked to see what the page can do.
    const layer = layers.macs.indexOf(Math.max(...layers.macs));
    const address = location.href;
    selection.choose(layer, "start");
    history.replaceState(null, "", address);
    network.redraw();
  }
  if (location.hash && !location.hash.startsWith("#layer=")) find(location.hash.slice(1))?.scrollIntoView();
}
