"use strict";

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

// A click on a heading sorts; the next one turns the order around; the third brings the first back.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const numeric = heading.classList.contains("number");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    const key = (row) => {
      const cell = row.cells[column];
      const value = cell.dataset.value ?? cell.textContent;
      return numeric ? Number(value) : value;
    };
    button.addEventListener("click", () => {
      const steps = numeric ? ["none", "descending", "ascending"] : ["none", "ascending", "descending"];
      const order = steps[(steps.indexOf(heading.getAttribute("aria-sort") ?? "none") + 1) % 3];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      const rows = [...original];
      if (order !== "none") {
        heading.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        rows.sort((a, b) => {
          const [one, two] = [key(a), key(b)];
          return sign * (numeric ? one - two : one.localeCompare(two, "en", { numeric: true }));
        });
      }
      body.append(...rows);
    });
  });
}

document.documentElement.dataset.ready = "true";
