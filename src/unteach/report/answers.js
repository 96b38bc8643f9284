/* the answers */
const PAGE = 8;
let set = 0, page = 0;

function answer(run, truth, said) {
  const [text, score] = said || ["", null];
  const bar = make("b");
  bar.style.width = `${Math.round(100 * (score || 0))}%`;
  const rouge = score === null ? make("div", "rouge") : make("div", "rouge", score.toFixed(2), make("i", "", bar));
  rouge.title = here.sets[set].score;
  const body = text.trim() ? make("div", "said", ...tinted(truth, text)) : make("div", "said none", said ? "(nothing)" : "(not asked)");
  return make("div", "row", who(run), rouge, make("div", "", ...clamp(body, text.length)));
}

function card([question, truth, said, number]) {
  const head = make("h3", "", make("span", "", String(number + 1)), question);
  const truthRow = make("div", "row truth", make("div", "who", "true answer"), make("div"), make("div", "", ...clamp(make("div", "said", truth), truth.length)));
  const rows = beside(here.runs.map((_, run) => run)).map((run) => answer(run, truth, said[run]));
  return make("article", "card", ...clamp(head, question.length), truthRow, ...rows);
}

function answers() {
  const { questions, score, count } = here.sets[set], sought = at("filter").value.trim().toLowerCase();
  const holds = ([question, truth, said]) => [question, truth, ...said.map((one) => (one ? one[0] : ""))].some((text) => text.toLowerCase().includes(sought));
  const found = questions.map((_, position) => position).filter((position) => !sought || holds(questions[position]));
  at("score").textContent = score;
  at("shown").hidden = questions.length === count;
  at("shown").textContent = `${questions.length} of ${count.toLocaleString("en")} questions: those on which the models differ most, and as many spread evenly over the others. All are in each run's evaluation files.`;
  chips(at("chips"), here.runs.map((_, run) => run), beginBeside);
  at("cards").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((position) => card(questions[position])));
  pager(at("pager"), found.length, PAGE, page, at("answers"), (to) => { page = to; answers(); });
}

function startAnswers() {
  at("answers-section").hidden = !here.sets.length;
  if (!here.sets.length) return;
  [set, page] = [0, 0];
  const labels = here.sets.map((one) => [one.title, make("small", "", one.count.toLocaleString("en"))]);
  choices(at("sets"), labels, 0, (chosen) => { set = chosen; page = 0; answers(); });
  answers();
}
at("filter").addEventListener("input", () => { page = 0; answers(); });
