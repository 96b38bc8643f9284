"use strict";
const suites = JSON.parse(document.getElementById("data").textContent);
const LONG = 480, FIRST = 10;
// the tab that is shown, its runs, and which of them stand beside each other; many at once are a wall of text
let tab = 0, here = suites[0], shownRuns = new Set();
const at = (id) => document.getElementById(id);
// A run has one colour wherever it is shown; references have that of their kind.
const TINTS = 8;
const isReference = (run) => run.tint === null;

// Every text of the user's becomes a text node here; nothing is ever parsed as HTML.
function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const press = (row, chosen) => [...row.children].forEach((button, number) => button.setAttribute("aria-pressed", number === chosen));

function choices(place, labels, chosen, act) {
  const buttons = labels.map((label, number) => {
    const button = make("button", "", ...[].concat(label));
    button.type = "button";
    button.setAttribute("aria-pressed", number === chosen);
    button.addEventListener("click", () => {
      press(place, number);
      act(number);
    });
    return button;
  });
  place.replaceChildren(...buttons);
  place.hidden = labels.length < 2;
}

/* the table */
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      // a missing value is neither large nor small: it stays at the end
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
      return up ? left - right : right - left;
    });
    body.append(...rows);
  });
}

// A table that is wider than its place says so, until its end is reached.
function markWide(place) {
  const table = place.firstElementChild;
  const left = table.scrollWidth - table.clientWidth - table.scrollLeft;
  place.classList.toggle("more", left > 4);
  place.nextElementSibling.hidden = table.scrollWidth - table.clientWidth <= 4;
}
const markAllWide = () => document.querySelectorAll(".wide").forEach(markWide);
for (const place of document.querySelectorAll(".wide")) {
  place.firstElementChild.addEventListener("scroll", () => markWide(place), { passive: true });
}

/* what the sections share */
const dot = (run) => make("span", `dot ${run.kind}${isReference(run) ? "" : " line" + (run.tint % TINTS)}`);
const short = (text) => (text.length > 30 ? text.slice(0, 29) + "…" : text);
const exponent = (value) => value.toExponential(1).replace(/([+-])(\d)$/, "$10$2"); // 1.0e-04, as in the table
const number = (value) => (value !== 0 && Math.abs(value) < 0.001 ? exponent(value) : value.toFixed(3));

const who = (run) => make("div", "who", dot(here.runs[run]), here.runs[run].name);

function clamp(element, length) {
  if (length <= LONG) return [element];
  element.classList.add("clamp");
  const more = make("button", "more", "show all");
  more.type = "button";
  more.addEventListener("click", () => { more.textContent = element.classList.toggle("clamp") ? "show all" : "show less"; });
  return [element, more];
}

// Which part of a long list is shown: `go` is called with the page that is chosen.
function pager(place, count, size, page, top, go) {
  const last = Math.max(0, Math.ceil(count / size) - 1);
  const button = (label, name, to) => {
    const made = make("button", "", label);
    made.type = "button";
    made.setAttribute("aria-label", name);
    made.disabled = to < 0 || to > last;
    made.addEventListener("click", () => { go(to); top.scrollIntoView(); });
    return made;
  };
  const where = count ? `${page * size + 1}–${Math.min(count, (page + 1) * size)} of ${count}` : "nothing matches";
  place.replaceChildren(...(last ? [button("‹", "previous page", page - 1), where, button("›", "next page", page + 1)] : [where]));
}

// One button a run, to show or hide it; `act` draws the section again.
function chips(place, runs, act) {
  place.replaceChildren(...runs.map((number) => {
    const run = here.runs[number], chip = make("button", "", dot(run), run.name);
    chip.type = "button";
    chip.setAttribute("aria-pressed", shownRuns.has(number));
    chip.addEventListener("click", () => {
      if (!shownRuns.delete(number)) shownRuns.add(number);
      act();
    });
    return chip;
  }));
  place.hidden = runs.length < 2;
}

const beside = (runs) => runs.filter((run) => shownRuns.has(run)).sort((a, b) => a - b);
