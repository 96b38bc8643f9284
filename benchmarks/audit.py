"""An audit from one plan, against its attacks one by one; and what it costs beside the clean suite.

    python benchmarks/audit.py [model=FOLDER] [tofu_path=people] [facts=40] [repeats=1]
                               [plain_batch_size=32] [level=quick]

Ours is `unteach audit` of one model: what all attacks ask, each probe once, sorted by length, the
head on answer positions only, candidates that share a prompt in one row. The alternative is a
script an attack, as published batteries are: each asks its own probes, in the order of the facts,
padded to the longest row of a batch, every candidate a row of its own with the logits of every
position, and a batch of continuations goes on until its last row is over. Both run in this process
on the same model, in turn, `repeats` times; what attacks that draw nothing found is compared.

Then whole commands, start-up and loading included: one audit in a process of its own, against a
process for each of its attacks, both by our engine. And the suite `rows` on the same facts, level
quick, and level standard without its trainings. Without `model` it is the random Llama of
evaluation.py, whose answers never end.
"""

import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unteach.config.environment import prepare_environment

prepare_environment()

import torch  # noqa: E402
from children import run_unteach  # noqa: E402
from evaluation import PlainEngine, random_model  # noqa: E402

from unteach.audits import battery, session  # noqa: E402
from unteach.audits.attacks.base import TrainingAttack, WeightAttack  # noqa: E402
from unteach.audits.audited_model import AuditedModel  # noqa: E402
from unteach.audits.probes import SampleProbe  # noqa: E402
from unteach.config.compose import compose  # noqa: E402
from unteach.config.schema import AuditConfig  # noqa: E402
from unteach.data.io.sources import load_rows  # noqa: E402
from unteach.data.user_files import resolve_files  # noqa: E402
from unteach.distributed.process_context import SINGLE_PROCESS  # noqa: E402
from unteach.models.loading import load_empty  # noqa: E402
from unteach.verbs.start import start  # noqa: E402

NO_TRAINING = ["audit.attacks.relearn=null", "audit.attacks.relearn_benign=null"]
Findings = dict[str, battery.Findings]


@dataclass
class Seconds:
    """Of the clock, and of this process."""

    wall: float
    cpu: float


class SamplingEngine(PlainEngine):
    """The plain engine, which draws where it is asked to."""

    lean = True

    def sample(
        self,
        prompts: Any,
        num_samples: int,
        max_new_tokens: int,
        seed: int,
        on_progress: Any = None,
        **settings: Any,
    ) -> list[list[list[int]]]:
        torch.manual_seed(seed)
        found: list[list[int]] = []
        num_prompts = max(1, self.batch_size // num_samples)
        for first in range(0, len(prompts), num_prompts):
            batch = [list(prompt) for prompt in prompts[first : first + num_prompts]]
            given = self.pad_rows(batch, left=True)
            made = self.model.generate(
                **given,
                max_new_tokens=max_new_tokens,
                do_sample=True,
                top_k=0,
                num_return_sequences=num_samples,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.stops,
            )
            found += [self.cut(row) for row in made[:, given["input_ids"].shape[1] :].tolist()]
        return [found[at : at + num_samples] for at in range(0, len(found), num_samples)]

    def cut(self, row: list[int]) -> list[int]:
        """Cut a row at the first token that ends it."""
        ends = [index for index, token in enumerate(row) if token in self.stops]
        return row[: min(ends, default=len(row))]


def measure(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def show_nothing(what: str, total: int) -> Callable[[int], None]:
    return lambda done: None


def refuse_to_teach(*_: object) -> Any:
    raise AssertionError("trainings are not measured")


def run_shared(plan: session.AuditPlan, config: AuditConfig, cache: Path) -> Findings:
    """Run all attacks from one plan, with nothing measured before."""
    model = AuditedModel(config.model, None, cache, SINGLE_PROCESS)
    return battery.run_battery(plan.battery, plan.context, model, show_nothing, refuse_to_teach)


def run_one_by_one(plan: session.AuditPlan, config: AuditConfig, batch_size: int) -> Findings:
    """Run one attack after the other, the plain way."""
    audited = AuditedModel(config.model, None, Path("none"), SINGLE_PROCESS)
    model = audited.model
    engine = SamplingEngine(
        model, audited.empty.tokenizer, batch_size, stops=audited.template.stops
    )
    findings: Findings = {}
    for name, attack in plan.battery.attacks.items():
        names = attack.measured if isinstance(attack, WeightAttack) else [name]
        probes = [probe for asking in names for probe in plan.battery.probes[asking]]
        is_change = isinstance(attack, WeightAttack)
        with attack.change(model) if is_change else contextlib.nullcontext():
            outcomes = battery.answer_probes(probes, plan.context, engine, show_nothing)
        findings[name] = attack.judge(plan.context, [(probe, outcomes[probe]) for probe in probes])
    return findings


def count_differences(plan: session.AuditPlan, ours: Findings, plain: Findings) -> tuple[int, int]:
    """Count the facts of which the two ways found something else, and how many were compared;
    attacks that draw samples are left out."""
    num_different = num_compared = 0
    for name, found in ours.items():
        probes = plan.battery.probes.get(name, ())
        if any(isinstance(probe, SampleProbe) for probe in probes):
            continue
        for index, finding in found.items():
            num_compared += 1
            num_different += finding.hits != plain[name][index].hits
    return num_different, num_compared


def write_rows(folder: Path, path: str, num_facts: int) -> list[str]:
    """Write the rows to forget and to retain into files; give the words that name them."""
    words = []
    for stream, name, most in (("forget", "forget10", num_facts), ("retain", "retain90", 400)):
        rows = load_rows({"path": path, "name": f"{name}", "split": "train"})[:most]
        file = folder / f"{stream}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words.append(f"{stream}={file}")
    return words


def compose_audit(words: Sequence[str]) -> AuditConfig:
    config = resolve_files(compose("audit", [*words, "task_name=b", *NO_TRAINING]))
    assert isinstance(config, AuditConfig)
    attacks = config.audit.attacks.values()
    assert not any(isinstance(attack, TrainingAttack) for attack in attacks)
    return config


def compare_plans(words: Sequence[str], repeats: int, batch_size: int) -> None:
    """Print what the two ways to ask take."""
    config = compose_audit(words)
    plan = session.plan_audit(config, load_empty(config.model))
    num_facts = len(plan.context.facts)
    print(f"{num_facts} facts, {plan.battery.num_distinct:,} probes of {plan.battery.num_asked:,}")
    times: dict[str, list[Seconds]] = {"one by one": [], "one plan": []}
    for _ in range(repeats):
        plain, spent = measure(lambda: run_one_by_one(plan, config, batch_size))
        times["one by one"].append(spent)
        with tempfile.TemporaryDirectory() as cache:
            ours, spent = measure(lambda cache=cache: run_shared(plan, config, Path(cache)))
        times["one plan"].append(spent)
    print("| seconds of | attacks one by one | one plan | ratio |\n|---|---:|---:|---:|")
    for clock in ("cpu", "wall"):
        plain_times = [getattr(spent, clock) for spent in times["one by one"]]
        our_times = [getattr(spent, clock) for spent in times["one plan"]]
        ratio = statistics.median(
            first / second for first, second in zip(plain_times, our_times, strict=True)
        )
        print(f"| {clock} | {spell(plain_times)} | {spell(our_times)} | {ratio:.1f} |")
    num_different, num_compared = count_differences(plan, ours, plain)
    print(f"findings that differ: {num_different} of {num_compared}")


def spell(times: Sequence[float]) -> str:
    return ", ".join(f"{seconds:.1f}" for seconds in times)


def compare_processes(words: Sequence[str], level: str, folder: Path) -> None:
    """Print what an audit takes in a process, and its attacks in one each, with nothing measured
    before; an attack on the weights with those that it asks by."""
    config = compose_audit([*words, level])
    plan = session.plan_audit(config, load_empty(config.model))
    chosen = {}
    for name, attack in plan.battery.attacks.items():
        asking = attack.measured if isinstance(attack, WeightAttack) else ()
        chosen[name] = [name, *asking]
    src = Path(battery.__file__).parents[2]
    used = {}
    for name, only in {"all of them": list(chosen), **chosen}.items():
        place = folder / name.replace(" ", "_")
        place.mkdir()
        own = [f"audit.only=[{','.join(only)}]", "task_name=b", f"paths.cache_dir={place}/cache"]
        used[name] = run_unteach(["audit", *words, level, *own], place, src)
    together = used.pop("all of them")
    apart = list(used.values())
    print("| a process for | cpu seconds | wall |\n|---|---:|---:|")
    print(f"| all {len(apart)} attacks | {together.cpu:.1f} | {together.wall:.1f} |")
    cpu, wall = sum(one.cpu for one in apart), sum(one.wall for one in apart)
    print(f"| each of them | {cpu:.1f} | {wall:.1f} |")
    print(f"| ratio | {cpu / together.cpu:.1f} | {wall / together.wall:.1f} |")


def compare_commands(words: Sequence[str], folder: Path) -> None:
    """Print what whole commands take, each with nothing measured before."""
    commands = {
        "suite rows": ("eval", []),
        "audit=quick": ("audit", ["audit=quick"]),
        "audit=standard, no training": ("audit", ["audit=standard", *NO_TRAINING]),
    }
    print("| command | cpu seconds | wall | times the suite |\n|---|---:|---:|---:|")
    suite = None
    for number, (name, (verb, own)) in enumerate(commands.items()):
        places = [f"paths.output_dir={folder}/{number}", f"paths.cache_dir={folder}/{number}-cache"]
        asked = [word for word in words if verb == "audit" or not word.startswith("retain=")]
        command = [*asked, "task_name=b", *places, *own]
        with contextlib.redirect_stdout(io.StringIO()):
            _, spent = measure(lambda verb=verb, command=command: start(verb, command))
        suite = suite or spent.cpu
        print(f"| {name} | {spent.cpu:.1f} | {spent.wall:.1f} | {spent.cpu / suite:.1f} |")


def main(given: dict[str, str]) -> None:
    path = given.get("tofu_path", "people")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = str(Path(given.get("model") or folder / "model").resolve())
        if not given.get("model"):
            random_model(Path(model), path)
        words = [f"model={model}", "template=qa"]
        words += write_rows(folder, path, int(given.get("facts", 40)))
        level = f"audit={given.get('level', 'quick')}"
        repeats = int(given.get("repeats", 1))
        compare_plans([*words, level], repeats, int(given.get("plain_batch_size", 32)))
        compare_processes(words, level, folder)
        compare_commands(words, folder)


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
