"""`unteach forget` against methods at their published settings, on the same rows, in one run.

    python benchmarks/forget.py model=FOLDER gone=FILE kept=FILE unseen=FILE
                                [budgets=0.02,0.1] [rates=1e-5] [facts=60] [folder=saves/benchmark]

Ours is the command with no setting but the budget: it chooses among three methods by their audits.
The alternative is GradDiff, NPO, SimNPO and RMU as OpenUnlearning publishes them for TOFU: AdamW at
1e-5 with weight decay 0.01, ten epochs of 32 rows with one of warm-up, weights and coefficients of
their configuration files, the end of the run taken as it is. `rates` runs them at others too, as
1e-5 is meant for models of a billion parameters. What comes of each is audited alike (level quick,
the model before as original), and its utility is the probability that it gives the answers of
`kept`, a token, as a share of the model's before.
"""

import contextlib
import sys
from pathlib import Path

from unteach.config.environment import prepare_environment

prepare_environment()

from unteach import run_dir  # noqa: E402
from unteach.errors import NotForgotten  # noqa: E402
from unteach.forgetting.choice import read_utility  # noqa: E402
from unteach.forgetting.leak import Leak, read_leak  # noqa: E402
from unteach.json_files import read_json, read_mapping  # noqa: E402
from unteach.verbs.start import start  # noqa: E402

PUBLISHED = {
    "GradDiff": [],
    "NPO": ["trainer.method_args.beta=0.1"],
    "SimNPO": [
        "trainer.method_args.beta=4.5",
        "trainer.method_args.gamma=0.125",
        "trainer.method_args.delta=0",
    ],
    "RMU": ["trainer.method_args.steering_coeff=2"],
}
ARGUMENTS = [
    "trainer.args.num_train_epochs=10",
    "trainer.args.per_device_train_batch_size=32",
    "trainer.args.gradient_accumulation_steps=1",
    "trainer.args.warmup_epochs=1",
    "trainer.args.weight_decay=0.01",
    "trainer.args.save_strategy=no",
]


def place(folder: Path) -> list[str]:
    return [f"task_name={folder.name}", f"paths.output_dir={folder}"]


def run_published(method: str, rate: str, given: dict[str, str], folder: Path) -> None:
    """Run one method as it is published, and audit what came of it."""
    rows = [f"forget={given['gone']}", f"retain={given['kept']}"]
    words = [f"model={given['model']}", *rows, f"trainer={method}", *PUBLISHED[method], *ARGUMENTS]
    start("unlearn", [*words, f"trainer.args.learning_rate={rate}", *place(folder)])
    audit = [f"model={folder}", *rows, f"holdout={given['unseen']}", f"original={given['model']}"]
    facts = f"audit.max_facts={given.get('facts', 60)}"
    start("audit", [*audit, "audit=quick", facts, *place(folder / run_dir.AUDIT)])


def run_ours(budget: str, given: dict[str, str], name: str) -> Path:
    """Run a request, and give the folder of the run that was chosen."""
    words = [given["gone"], f"model={given['model']}", f"retain={given['kept']}"]
    words += [f"holdout={given['unseen']}", f"budget={budget}", f"task_name={name}"]
    with contextlib.suppress(NotForgotten):
        start("forget", [*words, f"audit.max_facts={given.get('facts', 60)}"])
    record = read_mapping(Path("saves/forget") / name / run_dir.FORGET_RECORD, "a record")
    return Path("saves/forget") / name / "candidates" / record["done"]["method"]


def print_row(name: str, folder: Path, leak: Leak) -> None:
    after, before = read_utility(folder)
    assert after is not None and before, "retain rows are measured before and after"
    found = "yes" if leak.is_found else "no"
    shares = f"{after / before:.1%} | {leak.clean:.0%} | {leak.worst:.0%} | {leak.control:.0%}"
    print(f"| {name} | {shares} | {found} |", flush=True)


def main(given: dict[str, str]) -> None:
    folder = Path(given.get("folder", "saves/benchmark"))
    lines: list[tuple[str, Path]] = []
    for rate in given.get("rates", "1e-5").split(","):
        for method in PUBLISHED:
            own = folder / f"{method}-{rate}"
            run_published(method, rate, given, own)
            lines.append((f"{method}, published, rate {rate}", own))
    for budget in given.get("budgets", "0.02,0.1").split(","):
        own = run_ours(budget, given, f"{folder.name}-{budget}")
        landed = read_json(own / "landing.json", "a landing")
        lines.append((f"unteach forget budget={budget}: {own.name}, KL {landed['kl']:.3g}", own))
    print("| what was run | utility kept | politely | any attack | control | a leak |")
    print("|---|---:|---:|---:|---:|---|")
    for name, own in lines:
        print_row(name, own, read_leak(own / run_dir.AUDIT))


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
