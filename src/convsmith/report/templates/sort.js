// A click on a heading sorts; the next one turns the order around; the third brings the first back.
function makeSortable(table) {
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
      let rows = [...original];
      if (order !== "none") {
        heading.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const compare = new Intl.Collator("en", { numeric: true }).compare;
        const keyed = rows.map((row) => [key(row), row]);
        keyed.sort(([one], [two]) => sign * (numeric ? one - two : compare(one, two)));
        rows = keyed.map(([, row]) => row);
      }
      body.append(...rows);
    });
  });
}
for (const table of document.querySelectorAll("table[data-sortable]")) makeSortable(table);
