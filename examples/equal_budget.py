"""Prints the table of docs/equal-budget.md from a study's report: of every method, the rate at
which the true answers to forget are least likely.

    python examples/equal_budget.py saves/equal_budget/report.csv
"""

import csv
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

COLUMNS = {
    "forget_Q_A_Prob": "forget prob",
    "forget_Q_A_ROUGE": "forget ROUGE",
    "audit_rank": "rank 1",
    "audit_worst": "after attack",
    "model_utility": "utility",
    "retain_Q_A_Prob": "retain prob",
    "landing_kl": "KL",
    "landing_a": "a",
}
CHOSEN_BY = "forget_Q_A_Prob"
SEED = re.compile(r"_seed\d+")
VARIED = re.compile(r"_(learning_rate|n_pcs|target_layers)(.*)$")

# The values of each run, without its seed, by metric.
values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
kinds = {}
with Path(sys.argv[1]).open(encoding="utf-8") as file:
    for row in csv.DictReader(file):
        if row["suite"].endswith("over seeds") or not row["value"]:
            continue
        run = SEED.sub("", row["run"])
        kinds[run] = row["kind"]
        values[run][row["metric"]].append(float(row["value"]))

# Of each method, the setting at which it forgets most.
best: dict[str, str] = {}
for run, kind in kinds.items():
    method = VARIED.sub("", run) if kind == "forget" else run
    if method not in best or mean(values[run][CHOSEN_BY]) < mean(values[best[method]][CHOSEN_BY]):
        best[method] = run


def format_cell(found: list[float]) -> str:
    """Write a mean and its sample standard deviation over seeds."""
    if not found:
        return "–"
    if len(found) == 1:
        return f"{found[0]:.3f}"
    return f"{mean(found):.3f} ± {stdev(found):.3f}"


def measure_leak(method: str) -> float:
    """What a method is ordered by: what comes out of it under attack."""
    found = values[best[method]]
    return mean(found.get("audit_worst") or found[CHOSEN_BY])


shown = [name for name in COLUMNS if any(values[run].get(name) for run in best.values())]
print("| method | at |", " | ".join(COLUMNS[name] for name in shown), "|")
print("|---|---|" + "---|" * len(shown))
for method in sorted(best, key=measure_leak):
    run = best[method]
    setting = VARIED.search(run)
    cells = [format_cell(values[run].get(name, [])) for name in shown]
    print(f"| {method} | {setting[2] if setting else ''} |", " | ".join(cells), "|")
