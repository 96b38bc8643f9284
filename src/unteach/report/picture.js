/* the picture */
const MARGIN = { l: 68, r: 30, t: 52, b: 58 }, MANY = 16, NARROW = 640;
let view = 0;

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

// Small boxes along a dashed line through points of the picture, in steps of a few pixels.
function along(path) {
  return path.slice(1).flatMap((to, number) => {
    const from = path[number], steps = Math.ceil(Math.hypot(to.px - from.px, to.py - from.py) / 6);
    return Array.from({ length: steps }, (_, step) => {
      const [x, y] = [from.px + ((to.px - from.px) * step) / steps, from.py + ((to.py - from.py) * step) / steps];
      return { left: x - 3, right: x + 3, top: y - 3, bottom: y + 3 };
    });
  });
}

// Puts each label where it covers no other label, no point, no gold line and not the front; one that must go far gets a leader.
// Among many points, a label for which there is no room beside its point is left out, if it is not the only one of
// its kind: hovering still tells the name.
function placeLabels(points, front, uprights, levels, width, height) {
  const isReference = (p) => ["base", "full", "retain"].includes(here.runs[p.run].kind);
  const order = [...points].sort((a, b) => isReference(b) - isReference(a));
  const only = (p) => isReference(p) && points.filter((other) => here.runs[other.run].kind === here.runs[p.run].kind).length === 1;
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `${FONT}px ${family()}`;
  const taken = points.map((p) => ({ left: p.px - 8, right: p.px + 8, top: p.py - 8, bottom: p.py + 8, of: p }));
  const lines = uprights.map((px) => ({ left: px - 2, right: px + 2, top: 0, bottom: height }))
    .concat(levels.map((py) => ({ left: 0, right: width, top: py - 2, bottom: py + 2 })), along(front));
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
    if (points.length > MANY && !only(p) && (best.leader || best.covered)) return [];
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
  const named = shown.points.map(([run, px, py]) => ({ run, x: px, y: py, px: toX(px), py: toY(py), label: short(here.runs[run].name) }));
  const uprights = shown.pLine ? [...shown.goldX, shown.pLine] : shown.goldX;
  const front = shown.front.map((run) => named.find((point) => point.run === run));
  const labels = placeLabels(named, front, uprights.map(toX), shown.goldY.map(toY), width, height).map((place) => ({
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
  labels.push({ ...above, xref: "paper", x: 1, xanchor: "right", yshift: 20, text: plain(shown.better),
    font: { size: 12.5, color: colour("accent") } });
  return labels;
}

function drawPicture() {
  const shown = here.views[view], [ink, soft, grid, gold] = ["ink", "soft", "grid", "gold"].map(colour);
  const kinds = Object.keys(KINDS).filter((kind) => shown.points.some(([run]) => here.runs[run].kind === kind));
  // the legend says what a mark means; where runs have colours of their own, it has none
  const keys = kinds.filter((kind) => !AS_KIND.includes(kind)).map((kind) => (
    { type: "scatter", mode: "markers", name: KINDS[kind].word, x: [null], y: [null], marker: { size: 12, symbol: KINDS[kind].symbol, color: soft } }));
  const traces = kinds.map((kind) => {
    const points = shown.points.filter(([run]) => here.runs[run].kind === kind);
    return {
      type: "scatter", mode: "markers", name: KINDS[kind].word, showlegend: AS_KIND.includes(kind), x: points.map((p) => p[1]), y: points.map((p) => p[2]), cliponaxis: false,
      hoverinfo: "text", marker: { size: kind === "retain" ? 14 : 12, symbol: KINDS[kind].symbol, color: points.map(([run]) => tintOf(here.runs[run])), opacity: 0.92, line: { width: KINDS[kind].symbol.endsWith("open") ? 2.5 : 0 } },
      hovertext: points.map(([run, , y, x]) => `<b>${plain(here.runs[run].name)}</b><br>${plain(shown.x.short)} ${number(x)}<br>${plain(shown.y.short)} ${number(y)}`),
    };
  });
  traces.push(...keys);
  const front = shown.front.map((run) => shown.points.find((point) => point[0] === run));
  if (front.length > 1) {
    traces.unshift({ type: "scatter", mode: "lines", name: "Pareto front", x: front.map((p) => p[1]), y: front.map((p) => p[2]), cliponaxis: false,
      hoverinfo: "skip", line: { color: colour("accent"), width: 1.5, dash: "dash" }, opacity: 0.6 });
  }
  const line = (where, tint, dash) => ({ type: "line", layer: "below", line: { color: tint, width: 1.5, dash }, ...where });
  const shapes = shown.goldX.map((x) => line({ x0: x, x1: x, yref: "paper", y0: 0, y1: 1 }, gold, "solid"));
  for (const y of shown.goldY) shapes.push(line({ y0: y, y1: y, xref: "paper", x0: 0, x1: 1 }, gold, "dot"));
  if (shown.pLine) shapes.push(line({ x0: shown.pLine, x1: shown.pLine, yref: "paper", y0: 0, y1: 1 }, soft, "dot"));
  const axis = (of) => ({ title: { text: plain(of.label), standoff: 14, font: { size: 13.5, color: soft } }, gridcolor: grid, zeroline: false,
    tickfont: { color: soft, size: 12 }, linecolor: grid, tickcolor: grid, automargin: false });
  const log = shown.x.log;
  const layout = {
    margin: MARGIN, width: at("plot").clientWidth, height: at("plot").clientHeight, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: family(), color: ink, size: FONT },
    xaxis: { ...axis(shown.x), range: log ? shown.x.range.map(Math.log10) : shown.x.range, type: log ? "log" : "linear",
      ...(log ? { dtick: 4, exponentformat: "power" } : {}) },
    yaxis: { ...axis(shown.y), range: shown.y.range }, shapes, annotations: annotations(shown, ink, soft, gold),
    showlegend: traces.length > 1 && at("plot").clientWidth > NARROW, legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", xanchor: "left", font: { size: 12.5, color: soft }, bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: hover(),
  };
  // the legend stands above the words that stand above the plot
  layout.legend.y = 1 + 20 / Math.max(1, at("plot").clientHeight - MARGIN.t - MARGIN.b);
  Plotly.react("plot", traces, layout, { displayModeBar: false, displaylogo: false });
  const floor = log && shown.points.some((p) => p[1] !== p[3]) ? "Values below 1e-20 are drawn at 1e-20." : "";
  const level = shown.goldY.length ? `The dotted line is the retain model's ${shown.y.short}.` : "";
  const edge = front.length > 1 ? "On the dashed line are the models that no other beats on both sides, apart from references and those whose utility is gone." : "";
  const left = shown.leftOut.length ? `Not in the picture, as a value is missing: ${shown.leftOut.join(", ")}.` : "";
  const hidden = shown.points.length > MANY ? "Hover over a point, or tap it, for its name." : "";
  const apart = shown.comparable ? "" : "These models forget different sets: fronts, distributions and answers are under each set's own tab.";
  at("plot-note").textContent = [apart, level, edge, left, floor, hidden].filter(Boolean).join(" ");
}

// The axes of one direction that the pictures have, each once.
const byMetric = (side) => [...new Map(here.views.map((one) => [one[side].metric, one[side]])).values()];

function startPicture() {
  at("trade-section").hidden = !here.views.length;
  if (!here.views.length) return;
  view = 0;
  const sideways = byMetric("x"), upward = byMetric("y");
  let [x, y] = [0, 0];
  const turn = () => {
    const wanted = here.views.findIndex((one) => one.x.metric === sideways[x].metric && one.y.metric === upward[y].metric);
    at("plot").hidden = wanted < 0;
    if (wanted < 0) { at("plot-note").textContent = "No run has both values."; return; }
    view = wanted;
    drawPicture();
  };
  choices(at("axes-x"), sideways.map((one) => one.short), 0, (chosen) => { x = chosen; turn(); });
  choices(at("axes-y"), upward.map((one) => one.short), 0, (chosen) => { y = chosen; turn(); });
  at("axes-x-row").hidden = sideways.length < 2;
  at("axes-y-row").hidden = upward.length < 2;
  turn();
}
