/* the words that a text shares with the truth */
const words = (text) => [...text.matchAll(/[\p{L}\p{N}]+/gu)].slice(0, 400).map((m) => ({ word: m[0].toLowerCase(), from: m.index, to: m.index + m[0].length }));

// The words of `said` on a longest common subsequence with `truth`: what ROUGE-L counts.
function shared(truth, said) {
  const a = words(truth), b = words(said);
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i][j] = a[i].word === b[j].word ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  const found = [];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i].word === b[j].word) { found.push(b[j]); i++; j++; }
    else if (table[i + 1][j] >= table[i][j + 1]) i++;
    else j++;
  }
  return found;
}

function tinted(truth, said) {
  const parts = [];
  let end = 0, open = null;
  for (const { from, to } of shared(truth, said)) {
    if (open && !/\S/.test(said.slice(end, from))) open.append(said.slice(end, to));
    else { parts.push(said.slice(end, from)); open = make("mark", "", said.slice(from, to)); parts.push(open); }
    end = to;
  }
  parts.push(said.slice(end));
  return parts;
}
