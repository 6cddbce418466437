"use strict";
// light or dark: what the system says until the reader says otherwise
const root = document.documentElement, theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
let dark = system.matches;
function paint() {
  root.style.colorScheme = dark ? "dark" : "light";
  theme.setAttribute("aria-pressed", dark);
}
theme.addEventListener("click", () => { dark = !dark; paint(); });
system.addEventListener("change", () => { dark = system.matches; paint(); });
paint();

// tables: by number where every cell of a column begins with one, else by letters; a dash comes last
function numberOf(text) {
  const plain = text.replace(/−/g, "-").replace(/,/g, "");
  return /^[+-]?[\d.]/.test(plain) ? parseFloat(plain) : null;
}
function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map(row => ({ row, text: row.cells[column].textContent.trim() }));
  const there = rows.filter(r => r.text !== "–");
  const numeric = there.every(r => numberOf(r.text) !== null);
  const sign = descending ? -1 : 1;
  there.sort((a, b) => sign * (numeric ? numberOf(a.text) - numberOf(b.text) : a.text.localeCompare(b.text)));
  body.append(...there.map(r => r.row), ...rows.filter(r => r.text === "–").map(r => r.row));
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(h => h.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(table, column, descending);
  }));
}

// maps: the picture stands in the page once, and is laid under each of its maps
for (const map of document.querySelectorAll(".map[data-picture]")) {
  const picture = document.getElementById(map.dataset.picture), under = picture.cloneNode();
  under.removeAttribute("id");
  under.alt = "";
  under.className = "under";
  map.prepend(under);
  picture.decode().then(() => { map.style.aspectRatio = `${picture.naturalWidth} / ${picture.naturalHeight}`; });
}

// items: filtered, a page at a time
const PAGE = 24;
const filters = document.getElementById("filters");
if (filters) {
  const more = document.getElementById("more"), count = document.getElementById("count");
  const items = [...document.querySelectorAll("#list .item")].map(element => ({
    element,
    outcomes: JSON.parse(element.dataset.outcomes),
    words: element.textContent.toLowerCase(),
  }));
  let shown = PAGE;
  const fits = (item, wanted) => {
    const { benchmark, kind } = item.element.dataset;
    const outcomes = wanted.system ? [item.outcomes[wanted.system]] : Object.values(item.outcomes);
    return (!wanted.benchmark || wanted.benchmark === benchmark)
      && (!wanted.kind || wanted.kind === kind)
      && (!wanted.system || wanted.system in item.outcomes)
      && (!wanted.outcome || outcomes.includes(wanted.outcome))
      && wanted.words.toLowerCase().split(/\s+/).every(word => item.words.includes(word));
  };
  const show = () => {
    const wanted = Object.fromEntries(new FormData(filters));
    const fitting = items.filter(item => fits(item, wanted));
    const first = new Set(fitting.slice(0, shown));
    items.forEach(item => { item.element.hidden = !first.has(item); });
    count.textContent = `${fitting.length} of ${items.length} items fit, ${first.size} shown`;
    more.hidden = first.size === fitting.length;
  };
  const anew = () => { shown = PAGE; show(); };
  filters.addEventListener("input", anew);
  filters.addEventListener("submit", event => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(anew));
  more.addEventListener("click", () => { shown += PAGE; show(); });
  show();

  // an item that a table names is one step away
  const names = new Set(items.map(item => item.element.querySelector(".id").textContent));
  for (const cell of document.querySelectorAll("#agreement td.word")) {
    if (!names.has(cell.textContent)) continue;
    const button = Object.assign(document.createElement("button"), { type: "button", className: "link" });
    button.textContent = cell.textContent;
    button.addEventListener("click", () => {
      filters.reset();
      filters.elements.words.value = button.textContent;
      setTimeout(anew);
      filters.scrollIntoView();
      filters.elements.words.focus({ preventScroll: true });
    });
    cell.replaceChildren(button);
  }
}

// what is folded is printed too
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { d.open = true; }));
