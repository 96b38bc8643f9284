/* distributions: one line a run, in a colour of its own as runs of one kind are many */
const INNER = { l: 58, r: 18, t: 14, b: 50 }, TIGHT = 420;
let attack = 0;

function lines(shown, shape) {
  return shown.curves.map(([run, x, y, figure]) => {
    const { name } = here.runs[run];
    const told = figure === null ? "" : `<br>${shown.figure} ${number(figure)}`;
    const key = figure === null ? "" : `  ${number(figure)}`;
    return { type: "scatter", mode: "lines", name: plain(short(name)) + key, x, y, hoverinfo: "text", text: `<b>${plain(name)}</b>${told}`,
      line: { shape, width: isReference(here.runs[run]) ? 2.5 : 1.7, color: tintOf(here.runs[run]), dash: dashOf(here.runs[run]) } };
  });
}

function drawCurves(place, shown, shape, x, y, shapes) {
  const [ink, soft, grid] = ["ink", "soft", "grid"].map(colour);
  const axis = (of) => ({ gridcolor: grid, zeroline: false, tickfont: { color: soft, size: 11.5 }, ...of,
    title: { text: of.title, standoff: 10, font: { size: FONT, color: soft } } });
  const traces = lines(shown, shape), across = at(place).clientWidth < TIGHT ? 1 : 2;
  const layout = {
    margin: { ...INNER, b: INNER.b + 30 + 18 * Math.ceil(traces.length / across) }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: family(), color: ink, size: FONT },
    xaxis: axis(x), yaxis: axis(y), shapes, hoverlabel: hover(), showlegend: true,
    legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { size: 12, color: soft }, bgcolor: "rgba(0,0,0,0)", entrywidth: 1 / across, entrywidthmode: "fraction" },
  };
  layout.width = at(place).clientWidth;
  layout.height = 330 + layout.margin.b + layout.margin.t;
  layout.legend.y = -48 / 330;
  Plotly.react(place, traces, layout, { displayModeBar: false, displaylogo: false });
}

const missing = (shown) => (shown.leftOut.length ? ` Without it: ${shown.leftOut.join(", ")}.` : "");

function drawRatios() {
  const shown = here.ratios, ends = shown.curves.flatMap(([, x]) => x.slice(1, -1));
  const low = Math.max(1e-4, Math.min(0.1, ...ends) / 1.5), high = Math.min(1e4, Math.max(10, ...ends) * 1.5);
  const even = { type: "line", layer: "below", x0: 1, x1: 1, yref: "paper", y0: 0, y1: 1, line: { color: colour("soft"), width: 1, dash: "dot" } };
  drawCurves("ratio-plot", shown, "hv",
    { title: at("ratio-plot").clientWidth < TIGHT ? "truth ratio" : "truth ratio: how likely false answers are beside the true one", type: "log", range: [Math.log10(low), Math.log10(high)], dtick: 1, exponentformat: "power" },
    { title: "share of forget rows below", range: [-0.02, 1.02] }, [even]);
  const compared = shown.curves.some((curve) => curve[3] !== null);
  const figure = compared ? " The number is the largest gap to the retain model's curve: near 0, the two cannot be told apart." : "";
  at("ratio-note").textContent = `Left of 1 the true answer is still the likelier.${figure}${missing(shown)}`;
}

function drawAttack() {
  const shown = here.attacks[attack];
  const chance = { type: "line", layer: "below", x0: 0, x1: 1, y0: 0, y1: 1, line: { color: colour("soft"), width: 1, dash: "dot" } };
  drawCurves("attack-plot", shown, "linear",
    { title: "held-out rows taken for members", range: [-0.02, 1.02] }, { title: "forget rows recognised", range: [-0.02, 1.02] }, [chance]);
  at("attack-note").textContent = `The number is the area: 0.5 is a guess, 1 says that the forget rows are plainly remembered, 0 that they stick out as unlearned.${missing(shown)}`;
}

function startCurves() {
  at("ratio-panel").hidden = !here.ratios;
  at("attack-panel").hidden = !here.attacks.length;
  at("spread-section").hidden = !here.ratios && !here.attacks.length;
  if (here.ratios) drawRatios();
  if (!here.attacks.length) return;
  attack = 0;
  choices(at("attacks"), here.attacks.map((one) => one.title), 0, (chosen) => { attack = chosen; drawAttack(); });
  drawAttack();
}

function redrawCurves() {
  if (here.ratios) drawRatios();
  if (here.attacks.length) drawAttack();
}
