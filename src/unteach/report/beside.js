/* what was forgotten against how, how values moved while training, and the losses */
let crossed = 0, moved = 0, loss = 0;

function plotted(place, traces, x, y) {
  const below = 70 + 20 * Math.ceil(traces.length / 4);
  const [ink, soft, grid] = ["ink", "soft", "grid"].map(colour);
  const axis = (of) => ({ gridcolor: grid, zeroline: false, tickfont: { color: soft, size: 11.5 }, automargin: true, ...of,
    title: { text: plain(of.title), standoff: 10, font: { size: FONT, color: soft } } });
  Plotly.react(place, traces, {
    margin: { l: 64, r: 18, t: 14, b: below }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: family(), color: ink, size: FONT }, hoverlabel: hover(), showlegend: true, width: at(place).clientWidth, height: 364 + below,
    xaxis: axis(x), yaxis: axis(y), legend: { orientation: "h", x: 0, y: -56 / 350, yanchor: "top", font: { size: 12, color: soft }, bgcolor: "rgba(0,0,0,0)" },
  }, { displayModeBar: false, displaylogo: false });
}

const tint = (kind, turn) => (AS_KIND.includes(kind) ? colour(kind) : colour("line" + (turn % TINTS)));

function drawCrossed() {
  const shown = here.crossed[crossed];
  let turn = 0;
  const traces = shown.rows.map(({ name, kind, mean, spread }) => {
    const mine = AS_KIND.includes(kind) ? tint(kind, 0) : tint(kind, turn++);
    return { type: "scatter", mode: "lines+markers", name: plain(short(name)), x: shown.data.map(plain), y: mean, connectgaps: false,
      error_y: { type: "data", array: spread.map((one) => one ?? 0), visible: spread.some((one) => one), color: mine, thickness: 1.2, width: 5 },
      marker: { size: 9, symbol: KINDS[kind].symbol, color: mine }, line: { width: AS_KIND.includes(kind) ? 2.2 : 1.3, color: mine, dash: AS_KIND.includes(kind) ? "dot" : "solid" },
      hovertemplate: `<b>${plain(name)}</b><br>%{x}: %{y:.3f}<extra></extra>` };
  });
  plotted("crossed-plot", traces, { title: "what is forgotten", type: "category" }, { title: shown.label + (shown.better ? ` (good: ${shown.better})` : "") });
}

function overSteps(lines, mode) {
  return lines.map(([run, x, y]) => {
    const { name } = here.runs[run];
    return { type: "scatter", mode, name: plain(short(name)), x, y, text: y.map(number), marker: { size: 6 },
      line: { width: 1.7, color: tintOf(here.runs[run]), dash: dashOf(here.runs[run]) },
      hovertemplate: `<b>${plain(name)}</b><br>step %{x}: %{text}<extra></extra>` };
  });
}

function drawLosses() {
  const shown = here.losses[loss];
  plotted("loss-plot", overSteps(shown.lines, "lines"), { title: "optimiser step", rangemode: "tozero" }, { title: shown.label });
}

function drawMoved() {
  const shown = here.moved[moved];
  plotted("moved-plot", overSteps(shown.lines, "lines+markers"), { title: "optimiser step", rangemode: "tozero" }, { title: shown.label, ...(shown.log ? { type: "log", exponentformat: "power", dtick: spanned(shown.lines) > 8 ? 4 : 1 } : {}) });
}

// Powers of ten between the lowest and the highest value.
function spanned(lines) {
  const all = lines.flatMap(([, , values]) => values);
  return Math.log10(Math.max(...all) / Math.min(...all));
}

function startBeside() {
  at("crossed-section").hidden = !here.crossed.length;
  at("moved-section").hidden = !here.moved.length;
  at("making-section").hidden = !here.losses.length && !at("made").children.length;
  at("loss-plot").hidden = at("loss-note").hidden = !here.losses.length;
  crossed = moved = loss = 0;
  choices(at("crossed-choices"), here.crossed.map((one) => one.label), 0, (chosen) => { crossed = chosen; drawCrossed(); });
  choices(at("moved-choices"), here.moved.map((one) => one.label), 0, (chosen) => { moved = chosen; drawMoved(); });
  choices(at("loss-choices"), here.losses.map((one) => one.label), 0, (chosen) => { loss = chosen; drawLosses(); });
  redrawBeside();
}

function redrawBeside() {
  if (here.losses.length) drawLosses();
  if (here.crossed.length) drawCrossed();
  if (here.moved.length) drawMoved();
}
