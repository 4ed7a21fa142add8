for (const head of document.querySelectorAll(".sortable thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.onclick = () => {
    const body = head.closest("table").tBodies[0], at = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "descending" || (at === 0 && !head.hasAttribute("aria-sort"));
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    const sign = down ? 1 : -1, value = row => row.cells[at]?.dataset.value, text = row => row.cells[at]?.textContent ?? "";
    const figures = [...body.rows].some(value);
    // rows without a figure stay at the end
    body.append(...[...body.rows].sort((a, b) => !figures ? sign * text(a).localeCompare(text(b), "en", { numeric: true })
      : !value(a) ? 1 : !value(b) ? -1 : sign * (value(a) - value(b))));
  };
}
