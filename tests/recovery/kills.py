"""Kill commands before every call that changes a file, and at random moments; each must end as if
nothing had happened.

    python -m tests.recovery.kills LEDGER.jsonl [--most N] [VERB…]

Each trial is a command in a child forked from one warm process, killed once, and the same command
again. The ledger has a line a trial; what stands in it is not tried again, so it can be stopped and
gone on with.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGING = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.utime",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
LEFT_OPEN = 120
"""Seconds that a command has."""
TIMED = {
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "total_flos",
    "train_loss",
}
TRAIN = (
    "data=files model=auto model.model_args.pretrained_model_name_or_path=MODEL "
    "paths.cache_dir=cache trainer.args.max_steps=4 trainer.args.save_strategy=steps "
    "trainer.args.save_steps=2 trainer.args.logging_steps=1 "
    "trainer.args.per_device_train_batch_size=4 trainer.args.learning_rate=1e-3"
)
EVAL = "eval.rows.generation.max_new_tokens=4 eval.rows.batch_size=3"
COMMANDS = {
    "train": f"train task_name=t {TRAIN} data.train_file=q.csv data.validation_fraction=0.2 "
    f"eval=null",
    "unlearn": f"unlearn task_name=u {TRAIN} trainer=NPO data.forget_file=f.csv "
    f"data.retain_file=q.csv eval=rows {EVAL}",
    "eval": f"eval task_name=e data=files data.forget_file=f.csv model=auto paths.cache_dir=cache "
    f"model.model_args.pretrained_model_name_or_path=MODEL eval=rows {EVAL}",
    "audit": "audit task_name=a model=MODEL forget=f.csv retain=q.csv paths.cache_dir=cache template=qa "
    "audit=standard audit.only=[rank,clean,leak_at_k,rtn4,relearn] audit.batch_size=3 "
    "audit.attacks.leak_at_k.n=2 audit.attacks.relearn={learning_rates:[1e-3],looks:[1,2],r:2}",
    "infer": "infer model=MODEL input_file=q.csv input_column=question output_file=o.jsonl "
    "max_new_tokens=4 backend_args.batch_size=3 temperature=1.0",
    "tokenize": "tokenize input_file=q.csv output_file=out/tok tokenizer_path=MODEL max_length=64 "
    "num_proc=1",
    "export": "export MODEL to=out/model",
    "world": "world to=out/world n_authors=10",
    "study": "study run small.yaml eval.tofu.metrics=[forget_Q_A_Prob] "
    "trainer.args.learning_rate=1e-3",
    "report": "report RUN out=page",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and how many file-changing calls
    it made."""

    code: int
    calls: int
    said: str


class Kitchen:
    """A folder in which one command at a time is tried, always under the same path."""

    def __init__(self, home: Path, model: Path, run: Path | None = None):
        self.home, self.model, self.run = home, model, run
        self.place = home / "trial"

    def lay_out(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        for name, count in (("q.csv", 24), ("f.csv", 6)):
            rows = [f"What is {name[0]}{i}?,It is {'so ' * (i % 4)}{i}." for i in range(count)]
            (self.place / name).write_text("\n".join(["question,answer", *rows]) + "\n")
        write_study(self.place / "small.yaml", self.model)

    def words(self, verb: str) -> list[str]:
        return (
            COMMANDS[verb].replace("MODEL", str(self.model)).replace("RUN", str(self.run)).split()
        )

    def carry_out(
        self, words: list[str], kill_before: int | None = None, kill_after: float | None = None
    ) -> Ended:
        """Run a command in a forked child, killed before its n-th file-changing call or after so
        many seconds."""
        log = self.home / "log"
        log.unlink(missing_ok=True)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._in_child(words, log, writing, kill_before)
        os.close(writing)
        began = time.monotonic()
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            spent = time.monotonic() - began
            if spent > (LEFT_OPEN if kill_after is None else kill_after):
                os.kill(pid, signal.SIGKILL)
                ended = os.waitpid(pid, 0)
                break
            time.sleep(0.004)
        told = os.read(reading, 20)
        os.close(reading)
        said = log.read_text(errors="replace") if log.exists() else ""
        return Ended(os.waitstatus_to_exitcode(ended[1]), int(told or -1), said)

    def _in_child(self, words: list[str], log: Path, writing: int, kill_before: int | None) -> None:
        code = 1
        try:
            os.chdir(self.place)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            count = count_changes(str(self.place), kill_before)
            from unteach import cli

            try:
                cli.main(words)
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            os.write(writing, str(count()).encode())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def strays(self) -> list[str]:
        """What must not be left once a command has ended well."""
        from unteach import atomic

        found = []
        for path in self.place.rglob("*"):
            is_ours = atomic.is_temporary(path) or path.name.endswith(
                (".partial", ".owner", ".parts", ".plan.json")
            )
            if is_ours or (path.suffix == ".lock" and path.parent.name != "states"):
                found.append(str(path.relative_to(self.place)))
        return found

    def outcome(self) -> dict[str, str]:
        """A digest of every file whose content does not depend on the time or on what was measured
        before."""
        files = sorted(
            path for path in self.place.rglob("*") if path.is_file() or path.is_symlink()
        )
        return {
            str(path.relative_to(self.place)): digest
            for path in files
            if (digest := digest_of(path, path.relative_to(self.place))) is not None
        }


def write_study(file: Path, model: Path) -> None:
    """A study of two small runs: taught from a model, and made to forget a little."""
    import yaml

    named = {
        f"model.{part}.pretrained_model_name_or_path": str(model)
        for part in ("model_args", "tokenizer_args")
    }
    short = {
        "trainer.args.max_steps": 2,
        "trainer.args.save_strategy": "steps",
        "trainer.args.save_steps": 1,
        "template": "qa",
    }
    cached = {"paths.cache_dir": "cache"}
    study = {
        "name": "small",
        "full": {
            "experiment": "finetune/authors/default",
            "model": "auto",
            "data.train": "TOFU_QA_full",
            **named,
            **short,
            **cached,
        },
        "forget": [{"trainer": "GradAscent", **short, **cached}],
        "vary": {"forget_split": ["forget01"]},
        "eval": ["tofu"],
    }
    file.write_text(yaml.safe_dump(study, sort_keys=False))


def count_changes(place: str, kill_before: int | None) -> Callable[[], int]:
    """Count this process's calls that change a file under a place; ends it before one of them."""
    number = 0

    def is_change(event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = args
            return (
                isinstance(path, str | bytes | os.PathLike)
                and bool(flags & WRITING)
                and is_inside(path)
            )
        return (
            event in CHANGING
            and isinstance(args[0], str | bytes | os.PathLike)
            and is_inside(args[0])
        )

    def is_inside(path: Any) -> bool:
        name = os.fsdecode(path)
        return not name.startswith("/") or name.startswith(place)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal number
        if event != "open" and event not in CHANGING:
            return
        if is_change(event, args):
            number += 1
            if number == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: number


def digest_of(path: Path, name: Path) -> str | None:
    """A digest of what must be equal in a file; None where nothing must be but that something is
    there."""
    if name.parts[0] in ("cache", "small.yaml") or path.suffix in (
        ".log",
        ".png",
        ".html",
        ".pt",
        ".pth",
        ".bin",
    ):
        return None
    if (
        path.name
        in ("manifest.json", "DONE.json", "COMPLETE.json", "plan.json", "unteach_export.json")
        or "states" in name.parts
    ):
        if name.parts[0] != "out":
            return None
        if path.name == "unteach_export.json":
            return None
    if path.name.endswith((".meta.json", ".old1")) or path.suffix == ".lock":
        return None
    content = path.read_bytes()
    if "forget" in name.parts and path.name == "statement.json":
        return None  # it holds what the record does
    if path.name == "record.json":
        content = json.dumps(drop_seconds(json.loads(content))).encode()
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in content.splitlines()]
        content = json.dumps(
            [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
        ).encode()
    return hashlib.sha256(content).hexdigest()


def drop_seconds(record: dict[str, Any]) -> dict[str, Any]:
    """A request's record without what depends on the time."""
    candidates = [{**one, "seconds": None} for one in record["candidates"]]
    return {**record, "candidates": candidates, "cost": None}


def points(verb: str, calls: int, moments: int) -> Iterator[tuple[str, float]]:
    """Where a command is killed: before each of its calls, and at random shares of its time."""
    for number in range(1, calls + 1):
        yield "call", number
    draw = random.Random(verb)
    for _ in range(moments):
        yield "moment", round(draw.random(), 6)


def try_verb(
    kitchen: Kitchen, verb: str, ledger: Path, moments: int, most: int | None = None, every: int = 1
) -> list[dict[str, Any]]:
    """Try a verb at its points that the ledger lacks; gives the trials that were made."""
    words = kitchen.words(verb)
    kitchen.lay_out()
    began = time.monotonic()
    whole = kitchen.carry_out(words)
    spent = time.monotonic() - began
    assert whole.code == 0, whole.said
    expected, strays = kitchen.outcome(), kitchen.strays()
    assert not strays, strays
    done = {
        (line["verb"], line["kind"], line["at"]) for line in read_ledger(ledger) if is_good(line)
    }
    made: list[dict[str, Any]] = []
    for kind, at in list(points(verb, whole.calls, moments))[::every]:
        if most is not None and len(made) >= most:
            break
        if (verb, kind, at) in done:
            continue
        kitchen.lay_out()
        killed = kitchen.carry_out(
            words, **({"kill_before": int(at)} if kind == "call" else {"kill_after": at * spent})
        )
        again = kitchen.carry_out(words)
        found = kitchen.outcome() if again.code == 0 else {}
        differing = sorted(
            name for name in {*found, *expected} if found.get(name) != expected.get(name)
        )
        line = {
            "verb": verb,
            "kind": kind,
            "at": at,
            "killed": killed.code,
            "again": again.code,
            "differing": differing,
            "strays": kitchen.strays(),
        }
        if not is_good(line):
            line["said"] = again.said[-1500:]
        made.append(line)
        with ledger.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return made


def is_good(line: dict[str, Any]) -> bool:
    return (
        line["again"] == 0
        and not line["differing"]
        and not line["strays"]
        and line["killed"] in (0, -signal.SIGKILL)
    )


def read_ledger(file: Path) -> list[dict[str, Any]]:
    lines = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def warm_up() -> None:
    """Import, once and before any fork, what every command imports."""
    from unteach.config.environment import prepare_environment

    prepare_environment()
    import torch
    import transformers  # noqa: F401

    import unteach.evals.run
    import unteach.inference.backends.hf
    import unteach.training.build_trainer
    import unteach.training.trainer
    import unteach.verbs.audit
    import unteach.verbs.evaluate
    import unteach.verbs.export
    import unteach.verbs.forget
    import unteach.verbs.infer
    import unteach.verbs.report
    import unteach.verbs.study
    import unteach.verbs.tokenize
    import unteach.verbs.train
    import unteach.verbs.world  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    from tests.conftest import random_llama

    parser = argparse.ArgumentParser()
    parser.add_argument("ledger", type=Path)
    parser.add_argument("verbs", nargs="*", default=list(COMMANDS))
    parser.add_argument("--most", type=int, help="trials of a verb in this call")
    parser.add_argument("--moments", type=int, default=40, help="random moments of a verb")
    parser.add_argument("--every", type=int, default=1, help="only every N-th point")
    given = parser.parse_args()
    warm_up()
    home = given.ledger.resolve().parent / "kitchen"
    model = home / "model"
    if not model.exists():
        random_llama(model, 32)
    kitchen = Kitchen(home, model)
    kitchen.run = make_run(kitchen)
    for verb in given.verbs:
        began = time.monotonic()
        made = try_verb(kitchen, verb, given.ledger, given.moments, given.most, given.every)
        bad = [line for line in made if not is_good(line)]
        took = time.monotonic() - began
        print(f"{verb}: {len(made)} trials, {len(bad)} bad, {took:.0f} s", flush=True)
        for line in bad[:3]:
            print(json.dumps(line)[:1200])


def make_run(kitchen: Kitchen) -> Path:
    """A finished run, for what reads one."""
    run = kitchen.home / "run"
    if not run.exists():
        kitchen.lay_out()
        ended = kitchen.carry_out(kitchen.words("unlearn"))
        assert ended.code == 0, ended.said
        shutil.move(kitchen.place / "saves" / "unlearn" / "u", run)
    return run


if __name__ == "__main__":
    main()
