"use strict";
// light or dark: as the system, until the reader switches
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

// tables: sorted as numbers where every cell of a column starts with one, else as text; dashes come last
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

// maps: the image is in the page once and is copied under each of its maps
for (const map of document.querySelectorAll(".map[data-image]")) {
  const image = document.getElementById(map.dataset.image), under = image.cloneNode();
  under.removeAttribute("id");
  under.alt = "";
  under.className = "under";
  map.prepend(under);
  image.decode().then(() => { map.style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`; });
}

// items: filtered, shown a page at a time
const PAGE = 24;
const filters = document.getElementById("filters");
if (filters) {
  const more = document.getElementById("more"), count = document.getElementById("count");
  const items = [...document.querySelectorAll("#list .item")].map(element => ({
    element,
    outcomes: JSON.parse(element.dataset.outcomes),
    text: element.textContent.toLowerCase(),
  }));
  let shown = PAGE;
  const matches = (item, wanted) => {
    const { benchmark, questionType } = item.element.dataset;
    const outcomes = wanted.system ? [item.outcomes[wanted.system]] : Object.values(item.outcomes);
    return (!wanted.benchmark || wanted.benchmark === benchmark)
      && (!wanted.question_type || wanted.question_type === questionType)
      && (!wanted.system || wanted.system in item.outcomes)
      && (!wanted.outcome || outcomes.includes(wanted.outcome))
      && wanted.search.toLowerCase().split(/\s+/).every(word => item.text.includes(word));
  };
  const show = () => {
    const wanted = Object.fromEntries(new FormData(filters));
    const matching = items.filter(item => matches(item, wanted));
    const first = new Set(matching.slice(0, shown));
    items.forEach(item => { item.element.hidden = !first.has(item); });
    count.textContent = `${matching.length} of ${items.length} items match, ${first.size} shown`;
    more.hidden = first.size === matching.length;
  };
  const restart = () => { shown = PAGE; show(); };
  filters.addEventListener("input", restart);
  filters.addEventListener("submit", event => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(restart));
  more.addEventListener("click", () => { shown += PAGE; show(); });
  show();

  // item IDs in tables become buttons that find the item
  const names = new Set(items.map(item => item.element.querySelector(".id").textContent));
  for (const cell of document.querySelectorAll("#agreement td.text")) {
    if (!names.has(cell.textContent)) continue;
    const button = Object.assign(document.createElement("button"), { type: "button", className: "link" });
    button.textContent = cell.textContent;
    button.addEventListener("click", () => {
      filters.reset();
      filters.elements.search.value = button.textContent;
      setTimeout(restart);
      reveal(filters);
      filters.scrollIntoView();
      filters.elements.search.focus({ preventScroll: true });
    });
    cell.replaceChildren(button);
  }
}

// folded parts: a link to one opens it, printing opens all for as long as it lasts
function reveal(element) {
  element.querySelector(":scope > details.part")?.setAttribute("open", "");
  for (let e = element; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
}
function revealTarget() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  reveal(target);
  target.scrollIntoView();
}
addEventListener("hashchange", revealTarget);
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => reveal(document.querySelector(link.hash)));
revealTarget();
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...folded, ...document.querySelectorAll("details:not([open])")];
  folded.forEach(d => { d.open = true; });
});
addEventListener("afterprint", () => {
  folded.forEach(d => { d.open = false; });
  folded = [];
});

// terms: what one means, on hover, focus and tap; Escape hides it
const tip = document.getElementById("tip");
let described = null;
function hideTip() { tip.hidden = true; described = null; }
function showTip(element) {
  if (described === element) return;
  described = element;
  tip.textContent = document.getElementById(element.dataset.term).textContent;
  tip.hidden = false;
  const at = element.getBoundingClientRect(), width = tip.offsetWidth, height = tip.offsetHeight;
  const left = Math.max(12, Math.min(at.left, document.documentElement.clientWidth - width - 12));
  const top = at.bottom + height + 12 < innerHeight ? at.bottom + 6 : at.top - height - 6;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${top + scrollY}px`;
}
const termOf = event => event.target.closest?.("[data-term]");
for (const type of ["pointerover", "focusin", "click"]) {
  document.addEventListener(type, event => {
    const element = termOf(event);
    if (element) showTip(element);
    else if (event.target !== tip && !(type === "pointerover" && document.activeElement === described)) hideTip();
  });
}
addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });
