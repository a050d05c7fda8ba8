"use strict";
// The table of genes: it sorts, filters and searches. All text goes in as text, never as HTML.
const CONTENT = JSON.parse(document.getElementById("content").textContent);

function element(name, text, attributes) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  return made;
}

function shown(column, value) {
  if (value === null || value === undefined) return "–";
  if (column.kind === "flag") return value ? "● yes" : "○ no";
  return column.kind === "share" ? Math.round(100 * value) + " %" : value.toFixed(2);
}

(function () {
  const STEP = 50;
  const { names, columns } = CONTENT.genes;
  const withMap = new Set(CONTENT.maps.genes.map((gene) => gene.n));
  const body = document.querySelector("#gene-table tbody");
  const heads = [...document.querySelectorAll("#gene-table thead button")];
  const search = document.getElementById("search");
  const filter = document.getElementById("filter");
  const least = document.getElementById("least");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const flag = columns.find((column) => column.part === "reliable");
  const explained = columns.find((column) => column.part === "explained");
  const state = { by: null, descending: false, limit: STEP };
  if (!flag) filter.parentElement.hidden = true;
  if (!explained) least.parentElement.hidden = true;

  function chosen() {
    const words = search.value.trim().toLowerCase();
    const bound = parseFloat(least.value) / 100;
    return names.map((_, i) => i).filter((i) =>
      (!words || names[i].toLowerCase().includes(words)) &&
      (filter.value === "all" || !flag || (filter.value === "yes") === Boolean(flag.values[i])) &&
      !(bound > 0 && explained && !(explained.values[i] >= bound)));
  }

  function sorted(rows) {
    if (state.by === null) return rows;
    const sign = state.descending ? -1 : 1;
    if (state.by < 0) {
      return rows.sort((a, b) => sign * names[a].localeCompare(names[b], "en", { numeric: true }) || a - b);
    }
    const values = columns[state.by].values; // what is not known comes last either way
    return rows.sort((a, b) =>
      (values[a] === null) - (values[b] === null) || sign * (values[a] - values[b]) || a - b);
  }

  function row(i) {
    const made = element("tr");
    made.append(element("th", names[i], { scope: "row" }));
    const link = element("td", null, { class: "show" });
    if (withMap.has(names[i])) {
      const button = element("button", "Show", { type: "button", "aria-label": "Show the map of " + names[i] });
      button.addEventListener("click", () => document.dispatchEvent(new CustomEvent("gene", { detail: names[i] })));
      link.append(button);
    }
    made.append(link);
    for (const column of columns) {
      const value = column.values[i];
      const cell = element("td", shown(column, value));
      if (column.kind === "share" && value !== null) {
        const rail = element("span", null, { class: "rail", "aria-hidden": "true" });
        const fill = element("span", null, { class: "fill" });
        fill.style.width = 100 * Math.min(1, Math.max(0, value)) + "%";
        rail.append(fill);
        cell.prepend(rail);
      }
      made.append(cell);
    }
    return made;
  }

  function draw() {
    const rows = sorted(chosen());
    body.replaceChildren(...rows.slice(0, state.limit).map(row));
    const title = state.by === null ? "best first" : "by " + (state.by < 0 ? "gene" : columns[state.by].title) +
      (state.descending ? ", highest first" : ", lowest first");
    const some = rows.length > state.limit ? ", the first " + state.limit + " are shown" : "";
    count.textContent = rows.length + " of " + names.length + " genes, " + title + some + ".";
    more.hidden = rows.length <= state.limit;
    for (const head of heads) {
      const own = Number(head.dataset.column) === state.by;
      head.parentElement.setAttribute("aria-sort", own ? (state.descending ? "descending" : "ascending") : "none");
    }
  }

  for (const head of heads) {
    head.addEventListener("click", () => {
      const by = Number(head.dataset.column);
      state.descending = state.by === by ? !state.descending : by >= 0; // names from A, figures from the highest
      state.by = by;
      draw();
    });
  }
  for (const field of [search, filter, least]) {
    field.addEventListener("input", () => { state.limit = STEP; draw(); });
  }
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { state.limit *= 4; draw(); });
  draw();
})();
