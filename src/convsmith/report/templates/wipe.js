// Two pictures above each other, wiped by a slider; without this script they stand side by side.
for (const wipe of document.querySelectorAll("[data-wipe]")) {
  const range = document.createElement("input");
  range.type = "range";
  range.min = "0";
  range.max = "100";
  range.step = "1";
  range.value = "50";
  range.setAttribute("aria-label", `${wipe.dataset.wipe}: from the rewritten to the original output`);
  const show = () => {
    wipe.style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} percent of the original`);
  };
  const follow = (event) => {
    const box = wipe.querySelector("img").getBoundingClientRect();
    range.value = String((100 * (event.clientX - box.left)) / box.width);
    show();
  };
  range.addEventListener("input", show);
  for (const picture of wipe.querySelectorAll("img")) {
    picture.draggable = false;
    picture.addEventListener("pointerdown", (event) => {
      picture.setPointerCapture(event.pointerId);
      follow(event);
    });
    picture.addEventListener("pointermove", (event) => {
      if (picture.hasPointerCapture(event.pointerId)) follow(event);
    });
  }
  wipe.append(range);
  wipe.classList.add("live");
  show();
}
