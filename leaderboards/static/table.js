// Sorting, filtering and column groups of the tables, kept in the address after the '#'.
// Without this script every row is there, best first, with the figure that ranks; models' pages have the others.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tables = all("table[data-table]");
  const filters = all("[data-filter]");
  const boxes = all("[data-columns]");
  const rowsOf = (root) => all("tr[data-model]", root);
  const FEW = 100; // rows that a browser lays out in an instant
  let everything = false;
  let state = new URLSearchParams();

  function checkedColumns() {
    return [...new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.columns))].join(",");
  }

  function put(key, value, usual = "") {
    if (value === usual) state.delete(key);
    else state.set(key, value);
    const hash = state.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  // ------------------------------------------------------------------------------------------- sorting

  function compare(a, b, text, sign) {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is undefined comes last either way
    return sign * (text ? a.localeCompare(b) : Number(a) - Number(b));
  }

  function sort(table, heading, direction) {
    const index = [...heading.parentElement.cells].indexOf(heading);
    const text = "text" in heading.dataset;
    const sign = direction === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      const rows = rowsOf(body).sort((a, b) => a.dataset.place - b.dataset.place);
      rows.sort((a, b) => compare(a.cells[index].dataset.v, b.cells[index].dataset.v, text, sign));
      body.append(...rows);
    }
    for (const other of all("th[data-key]", table)) {
      other.setAttribute("aria-sort", other === heading ? direction : "none");
    }
  }

  function usualDirection(heading) {
    return "text" in heading.dataset || "low" in heading.dataset ? "ascending" : "descending";
  }

  function restoreSort(table) {
    const [key, direction] = (state.get(`sort-${table.dataset.table}`) ?? "primary.descending").split(".");
    const heading = all("th[data-key]", table).find((th) => th.dataset.key === key);
    if (heading && ["ascending", "descending"].includes(direction)) sort(table, heading, direction);
  }

  for (const table of tables) {
    rowsOf(table).forEach((row, place) => (row.dataset.place = place));
    table.tHead.addEventListener("click", (event) => {
      const heading = event.target.closest("th[data-key]");
      if (!heading) return;
      const flipped = { ascending: "descending", descending: "ascending" }[heading.getAttribute("aria-sort")];
      const direction = flipped ?? usualDirection(heading);
      sort(table, heading, direction);
      filter();
      put(`sort-${table.dataset.table}`, `${heading.dataset.key}.${direction}`, "primary.descending");
    });
  }

  // ----------------------------------------------------------------------------------------- filtering

  // Of thousands of rows the first few are laid out, in the order of the table; a button shows the others.
  function filter() {
    const wanted = filters.map((input) => [input.dataset.filter, input.value.trim()]).filter(([, value]) => value);
    const matches = (row) =>
      wanted.every(([key, value]) =>
        key === "q" ? row.dataset.model.includes(value.toLowerCase()) : row.dataset[key] === value,
      );
    const table = tables.find((candidate) => candidate.dataset.table === "all");
    const rows = rowsOf(table);
    let count = 0;
    for (const row of rows) {
      const match = matches(row);
      const hidden = !match || (!everything && count >= FEW);
      if (row.hidden !== hidden) row.hidden = hidden;
      count += match;
    }
    for (const body of table.tBodies) {
      for (const divider of all("tr.divider", body)) divider.hidden = rowsOf(body).every((row) => row.hidden);
    }
    document.querySelector("[data-matches]").textContent = `${count} of ${rows.length} rows`;
    document.querySelector("[data-clear]").hidden = wanted.length === 0;
    const more = document.querySelector("[data-more]");
    more.hidden = everything || count <= FEW;
    more.textContent = `Show all ${count}, not the first ${FEW}`;
  }

  document.querySelector("[data-more]").addEventListener("click", () => {
    everything = true;
    filter();
  });

  for (const input of filters) {
    input.addEventListener(input.type === "search" ? "input" : "change", () => {
      put(input.dataset.filter, input.value.trim());
      filter();
    });
  }

  document.querySelector("[data-clear]").addEventListener("click", () => {
    for (const input of filters) {
      input.value = "";
      put(input.dataset.filter, "");
    }
    filter();
  });

  // ------------------------------------------------------------------------------------------- columns

  function showColumns(names) {
    for (const box of boxes) {
      box.checked = names.includes(box.dataset.columns);
      for (const table of tables) table.classList.toggle(`show-${box.dataset.columns}`, box.checked);
    }
  }

  for (const box of boxes) {
    box.addEventListener("change", () => {
      for (const twin of boxes) if (twin.dataset.columns === box.dataset.columns) twin.checked = box.checked;
      showColumns(checkedColumns().split(","));
      put("columns", checkedColumns());
    });
  }

  // ------------------------------------------------------------------------------------------- address

  function restore() {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return; // a link to a section
    state = new URLSearchParams(hash);
    for (const input of filters) {
      input.value = state.get(input.dataset.filter) ?? "";
      if (input.value === "" || input.selectedIndex === -1) input.value = "";
    }
    showColumns((state.get("columns") ?? "").split(","));
    tables.forEach(restoreSort);
    filter();
  }

  for (const toolbar of all("[data-toolbar]")) toolbar.hidden = false;
  window.addEventListener("hashchange", restore);
  restore();
})();
