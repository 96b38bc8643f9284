/* the pictures: of each section that of the chosen tab and choices is shown; all are drawn already */
const ownPictures = (section) => [...section.querySelectorAll(`.pictures[data-tab="${tab}"] > .picture`)];
const choicesOf = (picture) => JSON.parse(picture.dataset.choices);

// One row of buttons for each word that a section's pictures are chosen by.
function startSection(section) {
  const pictures = ownPictures(section), rows = [...section.querySelectorAll(".bar .choices")];
  for (const group of section.querySelectorAll(".pictures")) group.hidden = Number(group.dataset.tab) !== tab;
  section.hidden = !pictures.length && !section.querySelector(".made");
  if (!pictures.length) { for (const row of rows) row.hidden = true; return; }
  const words = rows.map((_, place) => [...new Set(pictures.map((picture) => choicesOf(picture)[place]))]);
  const chosen = rows.map((_, place) => choicesOf(pictures[0])[place]);
  const turn = (turned) => {
    const fits = (picture) => choicesOf(picture).every((word, place) => word === chosen[place]);
    let shown = pictures.find(fits);
    // Not every pair of axes is drawn: the other axis goes back to the first that is drawn with this one.
    if (!shown && rows.length) shown = pictures.find((picture) => choicesOf(picture)[turned] === chosen[turned]);
    if (!shown) [shown] = pictures;
    if (!fits(shown)) { rows.forEach((row, place) => { chosen[place] = choicesOf(shown)[place]; press(row, words[place].indexOf(chosen[place])); }); }
    for (const picture of pictures) picture.hidden = picture !== shown;
  };
  rows.forEach((row, place) => {
    choices(row, words[place], 0, (number) => { chosen[place] = words[place][number]; turn(place); });
    if (row.parentNode.classList.contains("axis")) row.parentNode.hidden = row.hidden;
  });
  turn(0);
}

function startPictures() {
  document.querySelectorAll(".with-pictures").forEach(startSection);
  at("spread-section").hidden = [...at("spread-section").querySelectorAll(".panel")].every((panel) => panel.hidden);
}

// What the pointer is on, or within some pixels of; a finger taps.
const NEAR = [[0, 0], [5, 0], [-5, 0], [0, 5], [0, -5]];
function findTold(event) {
  if (!event.target.closest || !event.target.closest(".drawn")) return null;
  for (const [dx, dy] of NEAR) {
    const under = document.elementFromPoint(event.clientX + dx, event.clientY + dy);
    const told = under && under.closest(".drawn [data-told]");
    if (told) return told;
  }
  return null;
}

function tell(event) {
  const told = findTold(event), box = at("told");
  box.hidden = !told;
  if (!told) return;
  const [name, ...rest] = told.dataset.told.split("\n");
  box.replaceChildren(make("strong", "", name), ...rest.map((line) => make("div", "", line)));
  const room = document.documentElement.clientWidth - box.offsetWidth - 8;
  box.style.left = `${Math.max(8, Math.min(event.clientX + 14, room))}px`;
  box.style.top = `${event.clientY + 16}px`;
}
addEventListener("pointermove", tell, { passive: true });
addEventListener("click", tell);
