"use strict";
/* what every page shares */
const LONG = 480;
const at = (id) => document.getElementById(id);

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
