/* the suite that is shown */
function beginBeside() {
  if (here.heat.length) drawTokens();
  if (here.sets.length) answers();
}

function show(number) {
  here = suites[number];
  shownRuns = new Set(here.runs.map((_, run) => run).slice(0, FIRST));
  document.querySelectorAll(".numbers").forEach((one, place) => { one.hidden = place !== number; });
  markAllWide();
  startTokens();
  startAnswers();
  if (window.Plotly) { startPicture(); startBeside(); startCurves(); }
}

function redraw() {
  markAllWide();
  if (here.views.length) drawPicture();
  redrawBeside();
  redrawCurves();
}

choices(at("suites"), suites.map((one) => one.name), 0, show);
show(0);
// the pictures wait for Plotly, which stands last so that the words are there first
addEventListener("DOMContentLoaded", () => {
  startPicture();
  startBeside();
  startCurves();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });
});
