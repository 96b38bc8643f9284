"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const KINDS = {
  base: { word: "base", symbol: "circle-open" }, full: { word: "full", symbol: "circle" },
  retain: { word: "retain", symbol: "diamond" }, forget: { word: "unlearned", symbol: "circle" },
  eval: { word: "evaluated", symbol: "square" }, "": { word: "other", symbol: "square" },
};
const at = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + (name || "other")).trim();

// Every text of the user's becomes a text node here; nothing is ever parsed as HTML.
function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function choices(place, labels, chosen, act) {
  const buttons = labels.map((label, number) => {
    const button = make("button", "", ...[].concat(label));
    button.type = "button";
    button.setAttribute("aria-pressed", number === chosen);
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", other === button));
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

/* the picture */
const MARGIN = { l: 68, r: 30, t: 52, b: 58 }, FONT = 13, MANY = 16, NARROW = 640;
const FAMILY = getComputedStyle(document.body).fontFamily;
let view = 0;

// Plotly reads a little HTML in its texts
const plain = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
const short = (text) => (text.length > 30 ? text.slice(0, 29) + "…" : text);
const number = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : value.toFixed(3));

function overlap(a, b) {
  const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return wide > 0 && high > 0 ? wide * high : 0;
}

function offsets(width) {
  const near = [[12 + width / 2, 0], [-12 - width / 2, 0], [0, -19], [0, 19]];
  for (const far of [34, 58, 84, 112, 146]) {
    for (let turn = 0; turn < 12; turn++) {
      const angle = (turn * Math.PI) / 6;
      near.push([Math.cos(angle) * (far + width / 2), -Math.sin(angle) * far]);
    }
  }
  return near;
}

// How far a leader from a point to its label runs over other things, in steps along it.
function crossings(p, dx, dy, taken) {
  let count = 0;
  for (let step = 0.2; step < 0.9; step += 0.1) {
    const [x, y] = [p.px + dx * step, p.py + dy * step];
    count += taken.some((box) => box.of !== p && x > box.left && x < box.right && y > box.top && y < box.bottom);
  }
  return count;
}

// Puts each label where it covers no other label, no point and no gold line; one that must go far gets a leader.
// Among many points, a label for which there is no room beside its point is left out: hovering still tells the name.
function placeLabels(points, uprights, levels, width, height) {
  const isReference = (p) => ["base", "full", "retain"].includes(data.runs[p.run].kind);
  const order = [...points].sort((a, b) => isReference(b) - isReference(a));
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `${FONT}px ${FAMILY}`;
  const taken = points.map((p) => ({ left: p.px - 8, right: p.px + 8, top: p.py - 8, bottom: p.py + 8, of: p }));
  const lines = uprights.map((px) => ({ left: px - 2, right: px + 2, top: 0, bottom: height }))
    .concat(levels.map((py) => ({ left: 0, right: width, top: py - 2, bottom: py + 2 })));
  return order.flatMap((p) => {
    const wide = ruler.measureText(p.label).width + 8;
    let best = null;
    offsets(wide).forEach(([dx, dy], rank) => {
      const box = { left: p.px + dx - wide / 2, right: p.px + dx + wide / 2, top: p.py + dy - 9, bottom: p.py + dy + 9 };
      const outside = Math.max(0, -box.left) + Math.max(0, box.right - width) + Math.max(0, -box.top) + Math.max(0, box.bottom - height);
      const covered = [...taken, ...lines].reduce((sum, other) => sum + overlap(box, other), 0);
      const leader = rank > 3;
      const cost = covered * 4 + outside * 60 + rank + Math.hypot(dx, dy) / 10 + (leader ? 40 * crossings(p, dx, dy, taken) : 0);
      if (!best || cost < best.cost) best = { cost, covered, box, dx, dy, leader, p };
    });
    if (points.length > MANY && !isReference(p) && (best.leader || best.covered)) return [];
    taken.push(best.box);
    if (best.leader) {
      for (let step = 0.2; step < 0.9; step += 0.1) {
        const [x, y] = [p.px + best.dx * step, p.py + best.dy * step];
        taken.push({ left: x - 4, right: x + 4, top: y - 4, bottom: y + 4 });
      }
    }
    return [best];
  });
}

function annotations(shown, ink, soft, gold) {
  const plot = at("plot"), { x, y } = shown;
  const width = plot.clientWidth - MARGIN.l - MARGIN.r, height = plot.clientHeight - MARGIN.t - MARGIN.b;
  const scale = (value) => (x.log ? Math.log10(value) : value);
  const low = scale(x.range[0]), high = scale(x.range[1]);
  const toX = (value) => ((scale(value) - low) / (high - low)) * width;
  const toY = (value) => (1 - (value - y.range[0]) / (y.range[1] - y.range[0])) * height;
  const named = shown.points.map(([run, px, py]) => ({ run, x: px, y: py, px: toX(px), py: toY(py), label: short(data.runs[run].name) }));
  const uprights = shown.pLine ? [...shown.goldX, shown.pLine] : shown.goldX;
  const labels = placeLabels(named, uprights.map(toX), shown.goldY.map(toY), width, height).map((place) => ({
    x: scale(place.p.x), y: place.p.y, ax: place.dx, ay: place.dy, text: plain(place.p.label), showarrow: true,
    arrowhead: 0, arrowwidth: 1, standoff: 7, borderpad: 2, arrowcolor: place.leader ? soft : "rgba(0,0,0,0)",
    xanchor: "center", yanchor: "middle", font: { size: FONT, color: ink },
  }));
  const above = { yref: "paper", y: 1, yanchor: "bottom", showarrow: false };
  const left = shown.goldX.length > 0 && toX(Math.min(...shown.goldX)) < width / 2;
  if (shown.goldX.length) {
    labels.push({ ...above, x: Math.min(...shown.goldX), xanchor: left ? "left" : "right", xshift: left ? -4 : 4,
      text: "gold standard: the retain model", font: { size: 12, color: gold } });
  }
  if (shown.pLine) labels.push({ ...above, x: Math.log10(shown.pLine), text: "p = 0.05", font: { size: 12, color: soft } });
  labels.push({ ...above, xref: "paper", x: 1, xanchor: "right", yshift: 20, text: (left ? "↖ " : "↗ ") + shown.better,
    font: { size: 12.5, color: colour("accent") } });
  return labels;
}

function draw() {
  const shown = data.views[view], [ink, soft, grid, gold] = ["ink", "soft", "grid", "gold"].map(colour);
  const kinds = Object.keys(KINDS).filter((kind) => shown.points.some(([run]) => data.runs[run].kind === kind));
  const traces = kinds.map((kind) => {
    const points = shown.points.filter(([run]) => data.runs[run].kind === kind);
    return {
      type: "scatter", mode: "markers", name: KINDS[kind].word, x: points.map((p) => p[1]), y: points.map((p) => p[2]), cliponaxis: false,
      hoverinfo: "text", marker: { size: kind === "retain" ? 14 : 12, symbol: KINDS[kind].symbol, color: colour(kind), opacity: 0.92, line: { width: kind === "base" ? 2.5 : 0 } },
      hovertext: points.map(([run, , y, x]) => `<b>${plain(data.runs[run].name)}</b><br>${shown.x.short} ${number(x)}<br>${shown.y.short} ${number(y)}`),
    };
  });
  const line = (where, tint, dash) => ({ type: "line", layer: "below", line: { color: tint, width: 1.5, dash }, ...where });
  const shapes = shown.goldX.map((x) => line({ x0: x, x1: x, yref: "paper", y0: 0, y1: 1 }, gold, "solid"));
  for (const y of shown.goldY) shapes.push(line({ y0: y, y1: y, xref: "paper", x0: 0, x1: 1 }, gold, "dot"));
  if (shown.pLine) shapes.push(line({ x0: shown.pLine, x1: shown.pLine, yref: "paper", y0: 0, y1: 1 }, soft, "dot"));
  const axis = (of) => ({ title: { text: of.label, standoff: 14, font: { size: 13.5, color: soft } }, gridcolor: grid, zeroline: false,
    tickfont: { color: soft, size: 12 }, linecolor: grid, tickcolor: grid, automargin: false });
  const log = shown.x.log;
  const layout = {
    margin: MARGIN, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: FAMILY, color: ink, size: FONT },
    xaxis: { ...axis(shown.x), range: log ? shown.x.range.map(Math.log10) : shown.x.range, type: log ? "log" : "linear",
      ...(log ? { dtick: 4, exponentformat: "power" } : {}) },
    yaxis: { ...axis(shown.y), range: shown.y.range }, shapes, annotations: annotations(shown, ink, soft, gold),
    showlegend: kinds.length > 1 && at("plot").clientWidth > NARROW, legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", xanchor: "left", font: { size: 12.5, color: soft }, bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("faint"), font: { color: ink, family: FAMILY, size: 13 }, align: "left" },
  };
  // the legend stands above the words that stand above the plot
  layout.legend.y = 1 + 20 / Math.max(1, at("plot").clientHeight - MARGIN.t - MARGIN.b);
  Plotly.react("plot", traces, layout, { displayModeBar: false, displaylogo: false });
  const floor = log && shown.points.some((p) => p[1] !== p[3]) ? "Values below 1e-20 are drawn at 1e-20." : "";
  const level = shown.goldY.length ? `The dotted line is the retain model's ${shown.y.short}.` : "";
  const left = shown.leftOut.length ? `Not in the picture, as a value is missing: ${shown.leftOut.join(", ")}.` : "";
  const hidden = shown.points.length > MANY ? "Hover over a point for its name." : "";
  at("plot-note").textContent = [level, left, floor, hidden].filter(Boolean).join(" ");
}

function startPicture() {
  if (!data.views.length) {
    at("trade-section").hidden = true;
    return;
  }
  choices(at("axes"), data.views.map((one) => one.x.short), 0, (chosen) => { view = chosen; draw(); });
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(draw, 150); });
}
addEventListener("DOMContentLoaded", startPicture);

/* the answers */
const PAGE = 8, LONG = 480;
let set = 0, page = 0;
// many runs at once are a wall of text: begin with the first few, the rest is a click away
const shownRuns = new Set(data.runs.map((_, run) => run).slice(0, 10));

const words = (text) => [...text.matchAll(/[\p{L}\p{N}]+/gu)].slice(0, 400).map((m) => ({ word: m[0].toLowerCase(), from: m.index, to: m.index + m[0].length }));

// The words of `said` on a longest common subsequence with `truth`: what ROUGE-L counts.
function shared(truth, said) {
  const a = words(truth), b = words(said);
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i][j] = a[i].word === b[j].word ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  const found = [];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i].word === b[j].word) { found.push(b[j]); i++; j++; }
    else if (table[i + 1][j] >= table[i][j + 1]) i++;
    else j++;
  }
  return found;
}

function tinted(truth, said) {
  const parts = [];
  let end = 0, open = null;
  for (const { from, to } of shared(truth, said)) {
    if (open && !/\S/.test(said.slice(end, from))) open.append(said.slice(end, to));
    else { parts.push(said.slice(end, from)); open = make("mark", "", said.slice(from, to)); parts.push(open); }
    end = to;
  }
  parts.push(said.slice(end));
  return parts;
}

function clamp(element, length) {
  if (length <= LONG) return [element];
  element.classList.add("clamp");
  const more = make("button", "more", "show all");
  more.type = "button";
  more.addEventListener("click", () => { more.textContent = element.classList.toggle("clamp") ? "show all" : "show less"; });
  return [element, more];
}

const who = (run) => make("div", "who", make("span", "dot " + data.runs[run].kind), data.runs[run].name);

function answer(run, truth, said) {
  const [text, score] = said || ["", null];
  const bar = make("b");
  bar.style.width = `${Math.round(100 * (score || 0))}%`;
  const rouge = score === null ? make("div", "rouge") : make("div", "rouge", score.toFixed(2), make("i", "", bar));
  rouge.title = data.sets[set].score;
  const body = text.trim() ? make("div", "said", ...tinted(truth, text)) : make("div", "said none", said ? "(nothing)" : "(not asked)");
  return make("div", "row", who(run), rouge, make("div", "", ...clamp(body, text.length)));
}

function card([question, truth, said], position) {
  const head = make("h3", "", make("span", "", String(position + 1)), question);
  const truthRow = make("div", "row truth", make("div", "who", "true answer"), make("div"), make("div", "", ...clamp(make("div", "said", truth), truth.length)));
  const rows = [...shownRuns].sort((a, b) => a - b).map((run) => answer(run, truth, said[run]));
  return make("article", "card", ...clamp(head, question.length), truthRow, ...rows);
}

function pager(count) {
  const last = Math.max(0, Math.ceil(count / PAGE) - 1);
  const button = (label, name, to) => {
    const made = make("button", "", label);
    made.type = "button";
    made.setAttribute("aria-label", name);
    made.disabled = to < 0 || to > last;
    made.addEventListener("click", () => { page = to; answers(); at("answers").scrollIntoView(); });
    return made;
  };
  const place = count ? `${page * PAGE + 1}–${Math.min(count, (page + 1) * PAGE)} of ${count}` : "no question matches";
  at("pager").replaceChildren(...(last ? [button("‹", "previous page", page - 1), place, button("›", "next page", page + 1)] : [place]));
}

function answers() {
  const { questions, score } = data.sets[set], sought = at("filter").value.trim().toLowerCase();
  const holds = ([question, truth, said]) => [question, truth, ...said.map((one) => (one ? one[0] : ""))].some((text) => text.toLowerCase().includes(sought));
  const found = questions.map((_, position) => position).filter((position) => !sought || holds(questions[position]));
  at("score").textContent = score;
  at("cards").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((position) => card(questions[position], position)));
  pager(found.length);
}

function startAnswers() {
  if (!data.sets.length) {
    at("answers-section").hidden = true;
    return;
  }
  const labels = data.sets.map((one) => [one.title, make("small", "", String(one.questions.length))]);
  choices(at("sets"), labels, 0, (chosen) => { set = chosen; page = 0; answers(); });
  at("filter").addEventListener("input", () => { page = 0; answers(); });
  at("chips").replaceChildren(...data.runs.map((run, number) => {
    const chip = make("button", "", make("span", "dot " + run.kind), run.name);
    chip.type = "button";
    chip.setAttribute("aria-pressed", shownRuns.has(number));
    chip.addEventListener("click", () => {
      if (!shownRuns.delete(number)) shownRuns.add(number);
      chip.setAttribute("aria-pressed", shownRuns.has(number));
      answers();
    });
    return chip;
  }));
  answers();
}
startAnswers();
