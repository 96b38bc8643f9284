/* the facts of an audit */
const allFacts = JSON.parse(at("data").textContent);
const PAGE = 8;
const isOut = ([, , , , [attacks]]) => attacks.length > 0;
const groups = [
  ["brought out", allFacts.filter(isOut)],
  ["by no attack", allFacts.filter((fact) => !isOut(fact))],
].filter(([, facts]) => facts.length);
let group = 0, page = 0;

// The words of a value where they stand in a text one after the other; of a whole answer, those that both have.
function marked(value, answer, said) {
  if (value.startsWith("hmac:")) return [said];
  if (value === answer) return tinted(value, said);
  const sought = words(value).map((one) => one.word), found = words(said), parts = [];
  let end = 0;
  for (let first = 0; sought.length && first + sought.length <= found.length; first++) {
    if (found[first].from < end || !sought.every((word, place) => word === found[first + place].word)) continue;
    const to = found[first + sought.length - 1].to;
    parts.push(said.slice(end, found[first].from), make("mark", "", said.slice(found[first].from, to)));
    end = to;
  }
  return [...parts, said.slice(end)];
}

function row(name, className, badge, said, mark) {
  let body = make("div", "said none", "(nothing)");
  if (said === null) body = make("div", "said none", "(redacted)");
  else if (said.trim()) body = make("div", "said", ...mark(said));
  return make("div", `row ${className}`, make("div", "who", name), make("div", "badge", badge), make("div", "", ...clamp(body, said ? said.length : 0)));
}

function sum(attacks, numAttacks, beside, said) {
  const line = make("div", "sum");
  if (attacks.length) line.append("brought out by ", make("b", "", `${attacks.length} of ${numAttacks} attacks`), `: ${attacks.join(", ")}`);
  else line.append(`brought out by none of ${numAttacks} attacks`);
  for (const [part, count] of Object.entries(beside)) line.append(` · of the ${part} model by ${count || "none"}`);
  if (attacks.length && !said) line.append(" · in no words: its value is the likeliest of its kind");
  return line;
}

function card([place, question, answer, value, [attacks, numAttacks, beside], [rank, rankedBy, numCandidates], [saidBy, text], polite]) {
  const mark = (said) => marked(value, answer, said);
  const head = make("h3", "", make("span", "", place), question);
  const made = make("article", "card", ...clamp(head, question.length), row("true answer", "truth", "", answer, mark));
  if (saidBy) made.append(row(saidBy, "leaking", "says it", text, mark));
  if (polite !== null && saidBy !== "clean") made.append(row("asked politely", "", "", polite, mark));
  if (rank !== null) made.append(row("rank", "ranked", `${rank} of ${numCandidates}`, `at best, by ${rankedBy}`, (said) => [said]));
  made.append(sum(attacks, numAttacks, beside, saidBy));
  return made;
}

function drawFacts() {
  const facts = groups[group][1], sought = at("filter").value.trim().toLowerCase();
  const holds = ([place, question, answer, value, [attacks], , [, text], polite]) => [place, question, answer, value, text || "", polite || "", ...attacks].some((one) => one.toLowerCase().includes(sought));
  const found = facts.filter((fact) => !sought || holds(fact));
  at("cards").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
  pager(at("pager"), found.length, PAGE, page, at("facts"), (to) => { page = to; drawFacts(); });
}

at("facts-section").hidden = !groups.length;
if (groups.length) {
  const labels = groups.map(([label, facts]) => [label, make("small", "", facts.length.toLocaleString("en"))]);
  choices(at("groups"), labels, 0, (chosen) => { group = chosen; page = 0; drawFacts(); });
  at("filter").addEventListener("input", () => { page = 0; drawFacts(); });
  drawFacts();
}
markAllWide();
addEventListener("resize", markAllWide);
for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", markAllWide);
