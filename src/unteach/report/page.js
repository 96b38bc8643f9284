const suites = JSON.parse(at("data").textContent);
const FIRST = 10;
// the tab that is shown, its runs, and which of them stand beside each other; many at once are a wall of text
let tab = 0, here = suites[0], shownRuns = new Set();
// A run has one colour wherever it is shown; references have that of their kind.
const TINTS = 8;
const isReference = (run) => run.tint === null;

/* what the sections share */
const dot = (run) => make("span", `dot ${run.kind}${isReference(run) ? "" : " line" + (run.tint % TINTS)}`);
const short = (text) => (text.length > 30 ? text.slice(0, 29) + "…" : text);
const exponent = (value) => value.toExponential(1).replace(/([+-])(\d)$/, "$10$2"); // 1.0e-04, as in the table
const number = (value) => (value !== 0 && Math.abs(value) < 0.001 ? exponent(value) : value.toFixed(3));

const who = (run) => make("div", "who", dot(here.runs[run]), here.runs[run].name);

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
