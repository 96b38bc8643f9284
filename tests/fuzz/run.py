"""Many seeds one after the other: `python -m tests.fuzz.run files|commands FIRST LAST [SECONDS]`.

Prints each new kind of fault with its first seed, and the figures. FOUND.md keeps what was found
and mended.
"""

import contextlib
import io
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import random_llama
from tests.fuzz import commands, files
from tests.fuzz.forked import Outcome, empty_folder, run_forked, warm_up
from unteach import cli
from unteach.errors import EXIT_MISTAKE, UserError, describe_machine_failure

COMMAND = cli._command
ENDED = "--ended"
TOGETHER = 25
"""Files that one child reads."""
QUESTIONS = "question,answer\n" + "".join(f"Who is {name}?,{name} of Rome\n" for name in "abcdefgh")
STUDY = (
    "name: s\nfull: {experiment: finetune/authors/default, model: tiny}\nforget: [{trainer: NPO}]\n"
)


@dataclass
class ResultStore:
    """How many seeds ended how, and each kind of fault with its seeds."""

    ended: Counter[int] = field(default_factory=Counter)
    faults: dict[str, list[int]] = field(default_factory=dict)

    def add(self, seed: int, outcome: Outcome, what: str) -> None:
        self.ended[outcome.code] += 1
        if not outcome.is_fault:
            return
        seeds = self.faults.setdefault(outcome.kind, [])
        seeds.append(seed)
        if len(seeds) == 1:
            print(f"seed {seed}: {outcome.kind}\n  {what}", flush=True)


def compose_starts() -> None:
    """Compose what every command begins with here: the children that are forked need not do it
    again."""
    for words in commands.STARTS:
        if words and words[0] == "check":
            with (
                contextlib.suppress(SystemExit, UserError),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                COMMAND([*words, "--print"])


def try_files(seeds: range) -> list[tuple[Outcome, str]]:
    """Read the files of some seeds in one child; each in a child of its own where that one ends
    badly."""
    with empty_folder() as folder:
        kinds = []
        for seed in seeds:
            kind, content = files.make(seed)
            home = folder / str(seed)
            home.mkdir()
            (home / kind.name).write_bytes(content)
            kinds.append((kind, Path(str(seed)) / kind.name))
        outcome = run_forked(lambda: _read_all(kinds), folder)
    if outcome.is_fault:
        return [try_file(seed) for seed in seeds]
    codes = [int(line.split()[1]) for line in outcome.output.splitlines() if line.startswith(ENDED)]
    return [(Outcome(code, ""), kind.name) for code, (kind, _) in zip(codes, kinds, strict=True)]


def _read_all(kinds: list[tuple[files.Kind, Path]]) -> None:
    for kind, name in kinds:
        code = 0
        try:
            kind.read(name)
        except Exception as error:
            known = (
                (str(error), EXIT_MISTAKE)
                if isinstance(error, UserError)
                else describe_machine_failure(error)
            )
            if known is None:
                raise
            code = known[1]
        print(f"\n{ENDED} {code}")


def try_file(seed: int) -> tuple[Outcome, str]:
    """Read the file of a seed."""
    kind, content = files.make(seed)
    with empty_folder() as folder:
        (folder / kind.name).write_bytes(content)
        return run_forked(lambda: _read(kind, Path(kind.name)), folder), kind.name


def _read(kind: files.Kind, name: Path) -> None:
    kind.read(name)


def try_command(seed: int, model: Path) -> tuple[Outcome, str]:
    """Carry out the command of a seed in a folder with a model, rows, a study, a run file and a
    log."""
    words = commands.make(seed)
    with empty_folder() as folder:
        (folder / "tiny").symlink_to(model)
        (folder / "q.csv").write_text(QUESTIONS)
        (folder / "s.yaml").write_text(STUDY)
        (folder / "run.yaml").write_text("model: ./tiny\ndata: q.csv\ntask_name: t\n")
        (folder / "h").mkdir()
        (folder / "h" / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
        return run_forked(lambda: COMMAND(words), folder), " ".join(words)[:400]


def run(what: str, first: int, last: int, seconds: float = 600.0) -> ResultStore:
    """Try the seeds from `first` up to `last`, as far as the time goes."""
    warm_up()
    ledger, until = ResultStore(), time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(empty_folder())
        model = random_llama(home / "tiny", 32) if what == "commands" else home
        if what == "commands":
            compose_starts()
        step = 1 if what == "commands" else TOGETHER
        for start in range(first, last, step):
            seeds = range(start, min(start + step, last))
            if time.monotonic() > until:
                print(f"the time is over at seed {start}")
                break
            ended = [try_command(start, model)] if what == "commands" else try_files(seeds)
            for seed, (outcome, told) in zip(seeds, ended, strict=True):
                ledger.add(seed, outcome, told)
    return ledger


if __name__ == "__main__":
    began = time.monotonic()
    made = run(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        float(sys.argv[4]) if len(sys.argv) > 4 else 600.0,
    )
    print(
        f"{sum(made.ended.values())} {sys.argv[1]} in {time.monotonic() - began:.0f} s; by exit "
        f"code {dict(made.ended)}"
    )
    print(
        f"{len(made.faults)} kinds of faults",
        {kind: seeds[:5] for kind, seeds in made.faults.items()},
    )
