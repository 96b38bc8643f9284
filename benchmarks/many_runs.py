"""What a study of many runs costs before and after they are carried out: seconds and memory of
`study plan`, `study status` and `report`, milliseconds of composing a run, and the page's size.

    python benchmarks/many_runs.py [runs=20,200,2000] [verbs=compose,plan,status,report]
                                   [rows=1000000] [src=FOLDER] [folder=saves/many]

The study has rows of its own (200 invented questions, of which 40 are forgotten), nine methods and
at most five seeds; what is left of the number of runs are learning rates, so that of 2,000 runs 400
have words of their own. The model is a random Llama of 46 thousand parameters. One small study is
really carried out; the folders of all others are copies of its runs with their names, values,
generated texts and token probabilities changed. Each command is a process of its own. `rows` makes
one run whose example file holds so many rows, and reports on it. `src` measures another checkout of
unteach, beside this one's table.
"""

import csv
import json
import multiprocessing
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from children import Used, run_unteach
from scale import make_model, make_rows, make_words

METHODS = ("GradAscent", "GradDiff", "NPO", "SimNPO", "RMU", "UNDIAL", "WGA", "SatImp", "TNPO")
NUM_ROWS, NUM_FORGOTTEN = 200, 40
MOST_SEEDS = 5
SHORT = {"trainer.args.max_steps": 20, "trainer.args.logging_steps": 1}
MODEL_OF_RUN = "NPO"
"""The run of the small study that every forget run is a copy of."""
COMPOSE = """
import sys, time
from unteach.config import compose
from unteach.studies.study_file import read_study
plan = read_study(sys.argv[1]).plan
coming = [run.folder for run in plan]
forget_runs = [run for run in plan if run.kind == "forget"]
forget_runs = forget_runs[:: max(1, len(forget_runs) // 200)]
for warm in (True, False):
    began = time.process_time()
    for run in forget_runs:
        compose.compose(run.config_name, run.overrides, (), starting=True, coming=coming)
print((time.process_time() - began) / len(forget_runs) * 1000)
"""


def write_rows(folder: Path) -> None:
    """Write the rows that are learned, and those of them that are to go and to stay."""
    rows = list(make_rows(NUM_ROWS))
    parts = {"all": rows, "gone": rows[:NUM_FORGOTTEN], "kept": rows[NUM_FORGOTTEN:]}
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="") as lines:
            writer = csv.DictWriter(lines, ["question", "answer"])
            writer.writeheader()
            writer.writerows(part)


def write_study(folder: Path, name: str, num_runs: int, methods: tuple[str, ...]) -> Path:
    """Write the file of a study that plans about so many runs."""
    num_seeds = min(MOST_SEEDS, max(1, num_runs // 20))
    # Beside the forget runs, each seed has a full and a retain model and the evaluations of both.
    num_rates = max(1, (num_runs // num_seeds - 4) // len(methods))
    forget = {
        "forget": "gone.csv",
        "retain": "kept.csv",
        **SHORT,
        "vary": {
            "trainer": list(methods),
            "trainer.args.learning_rate": [(1 + rate) * 1e-6 for rate in range(num_rates)],
        },
    }
    study = {
        "name": name,
        "full": {"model": "model", "data": "all.csv", **SHORT},
        "retain": {"data": "kept.csv"},
        "forget": [forget],
        "vary": {"seed": list(range(num_seeds))},
    }
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(study, indent=1))
    return file


def find_source(run: dict[str, Any], small: Path) -> Path:
    """Find the run of the small study that a planned run is a copy of."""
    for name in ("full_eval", "retain_eval", "full", "retain"):
        if run["name"].startswith(name):
            return small / name
    return small / MODEL_OF_RUN


def list_values(run: dict[str, Any]) -> dict[str, str]:
    """List the values that a planned run's overrides set."""
    values = {}
    for word in run["overrides"]:
        key, _, value = word.partition("=")
        values[key] = value.strip("'")
    return values


def copy_run(run: dict[str, Any], small: Path, study: str) -> None:
    """Make the folder of a planned run as a copy of a finished one."""
    values = list_values(run)
    source, folder = find_source(run, small), Path(values["paths.output_dir"])
    # Weights and tokenizers are the same files under another name.
    shutil.copytree(source, folder, copy_function=os.link)
    seed = values.get("seed", "0")
    config = (source / "config.yaml").read_text()
    config = config.replace(str(source), str(folder)).replace("seed: 0", f"seed: {seed}")
    if run["kind"] == "forget":
        config = config.replace(f"handler: {MODEL_OF_RUN}", f"handler: {values['trainer']}")
        rate = values["trainer.args.learning_rate"]
        config = config.replace("learning_rate: 1.0e-06", f"learning_rate: {rate}")
    for name in ("full", "retain"):
        config = config.replace(f"{small}/{name}", f"saves/{study}/{name}_seed{seed}")
    replace_file(folder / "config.yaml", config)
    for home in (folder / "evals", folder):
        change_results(home, run["name"])
    change_results(folder / "evals_before", f"full {seed}")


def replace_file(file: Path, text: str) -> None:
    """Replace a file that may be another one's link."""
    file.unlink()
    file.write_text(text)


def change_results(home: Path, name: str) -> None:
    """Change every value, text and probability of an evaluation, as another run's would be."""
    file = home / "ROWS_EVAL.json"
    if not file.exists():
        return
    rng = random.Random(name)
    words = make_words(random.Random(0), 800)
    results = json.loads(file.read_text())
    for entry in results.values():
        change = rng.uniform(0.2, 1.8)
        for key in ("agg_value", "value"):
            if isinstance(entry.get(key), float):
                entry[key] *= change
        if isinstance(entry.get("ci"), list):
            entry["ci"] = [bound * change for bound in entry["ci"]]
        for row in entry["value_by_index"].values():
            for key, value in row.items():
                if isinstance(value, float):
                    row[key] = value * rng.uniform(0.5, 1.5)
            if "generation" in row:
                row["generation"] = f"It says {' '.join(rng.choices(words, k=15))}."
    replace_file(file, json.dumps(results, indent=1))
    summary = {metric: entry["agg_value"] for metric, entry in results.items()}
    replace_file(home / "ROWS_SUMMARY.json", json.dumps(summary, indent=1))
    tokens = json.loads((home / "ROWS_TOKENS.json").read_text())
    for row in tokens["rows"]:
        row["logprob"] = [value * rng.uniform(0.5, 1.0) for value in row["logprob"]]
    replace_file(home / "ROWS_TOKENS.json", json.dumps(tokens, indent=1))


def make_study(folder: Path, src: Path, num_runs: int) -> tuple[str, int]:
    """Make a study whose runs are all finished; give its name and the number of its runs."""
    study = f"of{num_runs}"
    write_study(folder, study, num_runs, METHODS)
    run_unteach(["study", "plan", f"{study}.yaml", "--write", "scripts"], folder, src)
    plan_file = folder / "saves" / study / "plan.json"
    runs = json.loads(plan_file.read_text())["runs"]
    if (folder / f"{study}.made").exists():
        return study, len(runs)
    os.chdir(folder)
    for run in runs:
        if not Path(list_values(run)["paths.output_dir"]).exists():
            copy_run(run, Path("saves/small"), study)
    (folder / f"{study}.made").touch()
    return study, len(runs)


def make_long_run(folder: Path, num_rows: int) -> Path:
    """Make a run whose example file holds so many rows of each metric."""
    run = folder / "saves" / "long" / f"rows{num_rows}"
    if run.exists():
        return run
    shutil.copytree(folder / "saves" / "small" / MODEL_OF_RUN, run)
    for home in ("evals", "evals_before"):
        write_long_results(run / home / "ROWS_EVAL.json", num_rows)
    return run


def write_long_results(file: Path, num_rows: int) -> None:
    """Write a file of results again with so many examples of each metric, laid out as it was."""
    results = json.loads(file.read_text())
    with file.open("w") as out:
        out.write("{")
        for number, (metric, entry) in enumerate(results.items()):
            rows = list(entry.pop("value_by_index").values())
            out.write(f'{"," if number else ""}\n "{metric}": {{\n  "value_by_index": {{')
            for index in range(num_rows):
                row = dict(rows[index % len(rows)])
                if "ground_truth" in row:
                    row["ground_truth"] = f"{row['ground_truth']} {index}"
                text = json.dumps(row, indent=1).replace("\n", "\n   ")
                out.write(f'{"," if index else ""}\n   "{index}": {text}')
            out.write("\n  }")
            for key, value in {**entry, "n": num_rows}.items():
                text = json.dumps(value, indent=1).replace("\n", "\n  ")
                out.write(f',\n  "{key}": {text}')
            out.write("\n }")
        out.write("\n}\n")


def say(verb: str, num_runs: int, used: Used, page: Path | None = None) -> None:
    size = f"{page.stat().st_size / 1e6:.1f}" if page else ""
    took = f"{used.wall:.1f} | {used.cpu:.1f} | {used.peak:,.0f} | {size}"
    print(f"| {verb} | {num_runs:,} | {took} |", flush=True)


def measure(verb: str, study: str, num_runs: int, folder: Path, src: Path) -> None:
    """Measure a verb on a study, and print its line."""
    if verb == "compose":
        used = run_unteach([f"{study}.yaml"], folder, src, program=("-c", COMPOSE))
        print(f"| compose, ms a run | {num_runs:,} | {float(used.said.split()[-1]):.1f} | | | |")
    elif verb == "plan":
        say(verb, num_runs, run_unteach(["study", "plan", f"{study}.yaml"], folder, src))
    elif verb == "report":
        shutil.rmtree(folder / "report", ignore_errors=True)
        used = run_unteach(["report", f"saves/{study}", "out=report"], folder, src)
        say(verb, num_runs, used, folder / "report" / "report.html")
    else:
        say(verb, num_runs, run_unteach(["study", verb, study], folder, src))


def main(given: dict[str, str]) -> None:
    folder = Path(given.get("folder", "saves/many")).resolve()
    own_src = Path(__file__).parents[1] / "src"
    src = Path(given.get("src", own_src)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        # Elsewhere: a child's memory is counted from what this process holds when it is made.
        maker = multiprocessing.get_context("spawn").Process(
            target=make_model, args=(folder / "model",)
        )
        maker.start()
        maker.join()
        write_rows(folder)
    if not (folder / "saves" / "small").exists():
        write_study(folder, "small", 5, (MODEL_OF_RUN,))
        run_unteach(["study", "run", "small.yaml"], folder, src)
    print("| verb | runs | seconds | processor seconds | MiB | page, MB |")
    print("|---|---:|---:|---:|---:|---:|")
    for num_runs in filter(None, given.get("runs", "20,200,2000").split(",")):
        study, num_planned = make_study(folder, own_src.resolve(), int(num_runs))
        for verb in given.get("verbs", "compose,plan,status,report").split(","):
            measure(verb, study, num_planned, folder, src)
    if "rows" in given:
        run = make_long_run(folder, int(given["rows"]))
        shutil.rmtree(folder / "report", ignore_errors=True)
        used = run_unteach(["report", str(run), "out=report"], folder, src)
        say(f"report, {int(given['rows']):,} rows", 1, used, folder / "report" / "report.html")


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
