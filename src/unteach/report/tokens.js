/* token by token: the darker a token, the more probable the model finds it */
const ANSWERS = 5;
let heatPage = 0;

function token(text, probability) {
  const made = make("span", "token", text.replace(/\n/g, "↵"));
  if (probability === null) return made;
  made.style.setProperty("--p", `${Math.round(100 * probability)}%`);
  made.title = `${text}  p = ${number(probability)}`;
  made.dataset.told = `p = ${number(probability)}`;
  return made;
}

// A finger cannot hover: a tap shows what the pointer would, until the next tap.
at("heat-cards").addEventListener("click", (event) => {
  const chosen = event.target.closest(".token[data-told]");
  const again = chosen && chosen.classList.contains("tapped");
  for (const other of document.querySelectorAll(".token.tapped")) other.classList.remove("tapped");
  if (chosen && !again) chosen.classList.add("tapped");
});

function heatRow(run, seen, shared) {
  if (!seen) return make("div", "row", who(run), make("div", "rouge"), make("div", "said none", "(not measured)"));
  const [own, probabilities, cut, mean] = seen, texts = own || shared;
  const body = make("div", "said tokens", ...texts.map((text, place) => token(text, probabilities[place])));
  if (cut) body.append(make("span", "cut", ` … ${cut} more tokens`));
  const figure = make("div", "rouge", mean === null ? "–" : number(mean));
  figure.title = "geometric mean of the probabilities";
  return make("div", "row", who(run), figure, make("div", "", ...clamp(body, texts.join("").length)));
}

function heatCard([question, answer, seen], position, runs) {
  const head = make("h3", "", make("span", "", String(position + 1)), question || short(answer));
  // Tokens that another run has alike are said once.
  const shared = (seen.find((one) => one && one[0]) || [[]])[0];
  return make("article", "card", ...clamp(head, question.length), ...runs.map((run) => heatRow(run, seen[run], shared)));
}

function drawTokens() {
  const measured = here.runs.map((_, run) => run).filter((run) => here.heat.some(([, , seen]) => seen[run]));
  chips(at("heat-chips"), measured, beginBeside);
  at("heat-shown").hidden = here.heat.length === here.heat_count;
  at("heat-shown").textContent = `${here.heat.length} of ${here.heat_count.toLocaleString("en")} answers. All are in each run's evaluation files.`;
  const shown = here.heat.slice(heatPage * ANSWERS, (heatPage + 1) * ANSWERS);
  const runs = beside(measured);
  at("heat-cards").replaceChildren(...shown.map((one, place) => heatCard(one, heatPage * ANSWERS + place, runs)));
  pager(at("heat-pager"), here.heat.length, ANSWERS, heatPage, at("tokens"), (to) => { heatPage = to; drawTokens(); });
}

function startTokens() {
  at("tokens-section").hidden = !here.heat.length;
  if (!here.heat.length) return;
  heatPage = 0;
  drawTokens();
}
