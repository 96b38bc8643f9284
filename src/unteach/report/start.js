/* the tab that is shown */
function beginBeside() {
  if (here.heat.length) drawTokens();
  if (here.sets.length) answers();
}

function show(number) {
  tab = number;
  here = suites[number];
  shownRuns = new Set(here.runs.map((_, run) => run).slice(0, FIRST));
  document.querySelectorAll(".numbers").forEach((one, place) => { one.hidden = place !== number; });
  markAllWide();
  startPictures();
  startTokens();
  startAnswers();
}

choices(at("suites"), suites.map((one) => one.name), 0, show);
show(0);
addEventListener("resize", markAllWide);
