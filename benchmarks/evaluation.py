"""The TOFU suite from shared passes, against the same metrics one by one.

    python benchmarks/evaluation.py [tofu_path=authors] [model=FOLDER] [forget_split=forget10]
                                    [metrics=all] [share=1] [repeats=1] [max_new_tokens=200]
                                    [plain_batch_size=32] [batch_size=null] [lean=yes]

Ours is `unteach eval`: the union of what all metrics need, sorted by length, the head on answer
positions only, rows that leave a batch when they are over. The alternative is the way of published
code: each metric that needs a pass makes its own, in the order of the data, padded to the longest
row of a batch, with loss and log-probs of every position (with `lean`, logits alone), and a batch
of continuations goes on until its last row is over. Both run in this process, on the same model, in
turn, `repeats` times after a warm-up; the values are compared. `share` takes that part of each set.
Without `model` it is a random Llama (layers 4, width 256), whose answers never end.
"""

import json
import statistics as middle
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unteach.config.compose import compose
from unteach.config.environment import prepare_environment

prepare_environment()

import torch  # noqa: E402
import transformers  # noqa: E402

from unteach.config.schema import ModelConfig  # noqa: E402
from unteach.config.suites import SuiteConfig  # noqa: E402
from unteach.data.io.sources import load_rows  # noqa: E402
from unteach.engines.base import Score  # noqa: E402
from unteach.engines.hf import HFEngine  # noqa: E402
from unteach.engines.token_statistics import compute_token_statistics  # noqa: E402
from unteach.errors import AbsentData  # noqa: E402
from unteach.evals import suite_plan, suites  # noqa: E402
from unteach.evals.base import GradNorms, Scores, Texts  # noqa: E402
from unteach.models.loading import load  # noqa: E402
from unteach.models.model_handlers import learn_tokenizer  # noqa: E402

PASSES = ("scoring", "generation")


class PlainEngine(HFEngine):
    """As published code passes over its rows: in the order of the data, padded, with the logits of
    every position.

    The labels go along, so that the library computes its loss, and log-probs are taken at every
    position. spread: the mean and the variance over the vocabulary are made too, at the answer's
    positions. lean: neither loss nor log-probs are computed where nobody asks.
    """

    spread, lean = False, False

    def score(self, pairs: Any, on_progress: Any = None) -> list[Score]:
        found = []
        with torch.no_grad():
            for first in range(0, len(pairs), self.batch_size):
                found += self.one_batch(pairs[first : first + self.batch_size])
        return found

    def one_batch(self, batch: Any) -> Iterator[Score]:
        given = self.pad_rows([[*p, *a] for p, a in batch], left=False)
        labels = torch.full_like(given["input_ids"], -100)
        for row, (prompt, answer) in zip(labels, batch, strict=True):
            row[len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        if self.lean:
            logits = self.model(**given).logits[:, :-1].float()
        else:
            logits = self.model(**given, labels=labels).logits[:, :-1].float().log_softmax(-1)
        for (prompt, answer), label, row in zip(batch, labels, logits, strict=True):
            there = slice(len(prompt), len(prompt) + len(answer))
            asked, ids = row[there.start - 1 : there.stop - 1], label[there]
            has_spread = self.lean or self.spread
            compute = compute_token_statistics if has_spread else self.without_spread
            v = compute(asked, ids).cpu().numpy()
            yield Score(ids.cpu().numpy(), v[:, 0], v[:, 1] > 0.5, v[:, 2], v[:, 3])

    @staticmethod
    def without_spread(logp: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        picked, hit = logp.gather(-1, labels[:, None])[:, 0], (logp.argmax(-1) == labels).float()
        return torch.stack(
            [picked, hit, torch.zeros_like(picked), torch.zeros_like(picked)], dim=-1
        )

    def generate(
        self, prompts: Any, max_new_tokens: int, on_progress: Any = None, **_: Any
    ) -> list[list[int]]:
        found = []
        for first in range(0, len(prompts), self.batch_size):
            given = self.pad_rows(
                [list(prompt) for prompt in prompts[first : first + self.batch_size]], left=True
            )
            made = self.model.generate(
                **given,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.stops,
            )
            for row in made[:, given["input_ids"].shape[1] :].tolist():
                found.append(
                    row[: next((i for i, token in enumerate(row) if token in self.stops), len(row))]
                )
        return found


@dataclass
class Spent:
    """Seconds of the clock and of this process, by pass."""

    wall: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PASSES, 0.0))
    cpu: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PASSES, 0.0))

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.wall[what] += time.perf_counter() - wall
        self.cpu[what] += time.process_time() - cpu

    def watch(self, engine: HFEngine) -> HFEngine:
        """The engine, whose passes are counted."""
        for name, what in (("score", "scoring"), ("generate", "generation")):
            inner = getattr(engine, name)

            def timed(*args: Any, _inner: Any = inner, _what: str = what, **kwargs: Any) -> Any:
                with self.on(_what):
                    return _inner(*args, **kwargs)

            setattr(engine, name, timed)
        return engine


def random_model(folder: Path, path: str) -> None:
    """A random Llama with a tokenizer of the corpus."""
    rows = load_rows({"path": path, "name": "full", "split": "train"})
    tokenizer = learn_tokenizer([f"{row['question']} {row['answer']}" for row in rows], 8192)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def corpus(folder: Path, path: str, split: str, share: float) -> None:
    """The sets that the suite asks, the first `share` of each. Where no holdout was published, it
    is other rows."""

    def rows(name: str) -> list[dict[str, Any]]:
        return load_rows({"path": path, "name": name, "split": "train"})

    sets = {
        name: rows(name)
        for name in ("retain_perturbed", "real_authors_perturbed", "world_facts_perturbed")
    }
    sets |= {split: rows(split), f"{split}_perturbed": rows(f"{split}_perturbed")}
    holdout = split.replace("forget", "holdout")
    try:
        sets[holdout] = rows(holdout)
    except AbsentData:
        asked = {row["question"] for name in (split, "retain_perturbed") for row in sets[name]}
        others = [row for row in rows("full") if row["question"] not in asked]
        sets[holdout] = others[: len(sets[split])]
    for name, found in sets.items():
        lines = (json.dumps(row) for row in found[: round(share * len(found))])
        (folder / f"{name}.jsonl").write_text("\n".join(lines))


def ours(
    model: Any, config: SuiteConfig, leaves: list[str], batch_size: int | None
) -> tuple[dict[str, float], Spent]:
    """All metrics of one plan: their values, and what the passes took."""
    config, spent = replace(config, metrics=leaves), Spent()
    engine = spent.watch(
        HFEngine(model.model, model.tokenizer, batch_size, stops=model.template.stops)
    )
    return values(config, engine, model), spent


def plain(
    model: Any, config: SuiteConfig, leaves: list[str], batch_size: int, lean: bool
) -> tuple[dict[str, float], Spent]:
    """The same, one metric after the other."""
    found, spent = dict[str, float](), Spent()
    for name in leaves:
        one_metric = replace(config, metrics=[name])
        engine = PlainEngine(model.model, model.tokenizer, batch_size, stops=model.template.stops)
        engine.spread, engine.lean = "plus_plus" in name, lean
        spent.watch(engine)
        found[name] = values(one_metric, engine, model)[name]
    return found, spent


def values(config: SuiteConfig, engine: HFEngine, model: Any) -> dict[str, float]:
    found = suites.evaluate(
        {config.suite: config}, engine, model.template, lambda *_: lambda done: None, None
    )
    return {name: value.agg for name, value in found[config.suite].items() if value.agg is not None}


def with_passes(config: SuiteConfig, template: Any) -> list[str]:
    """The metrics that need scores or texts themselves; gradient norms share nothing and are left
    out."""
    needs = {
        name: metric.needs().values()
        for name, metric in suite_plan.plan_suite(config, template).metrics.items()
    }
    return [
        name
        for name, of in needs.items()
        if any(isinstance(need, Scores | Texts) for need in of)
        and not any(isinstance(need, GradNorms) for need in of)
    ]


def main(given: dict[str, str]) -> None:
    path, split = given.get("tofu_path", "authors"), given.get("forget_split", "forget10")
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as data:
        folder = given.get("model") or made
        if not given.get("model"):
            random_model(Path(folder), path)
        asked = ModelConfig(
            {"pretrained_model_name_or_path": folder, "dtype": given.get("dtype", "auto")}
        )
        model = load(asked, training=False)
        model.model.to("cuda" if torch.cuda.is_available() else "cpu")
        corpus(Path(data), path, split, float(given.get("share", 1)))
        words = [
            "experiment=eval/tofu/default",
            "model=auto",
            f"model.model_args.pretrained_model_name_or_path={folder}",
            "task_name=b",
            f"tofu_path={data}",
            f"forget_split={split}",
            f"eval.tofu.batch_size={given.get('batch_size', 'null')}",
            f"eval.tofu.metrics={given.get('metrics', 'all')}",
            f"max_new_tokens={given.get('max_new_tokens', 200)}",
        ]
        config = compose("eval", words).eval["tofu"]
        batch_size, leaves = config.batch_size, with_passes(config, model.template)
        HFEngine(model.model, model.tokenizer).score([((3, 4, 5), (6, 7))] * 8)
        rounds, worst = [], 0.0
        for number in range(int(given.get("repeats", 1))):
            ways = [lambda: ours(model, config, leaves, batch_size)]
            ways.append(
                lambda: plain(
                    model, config, leaves, int(given.get("plain_batch_size", 32)), "lean" in given
                )
            )
            found = [way() for way in ways[:: 1 if number % 2 else -1]]
            (mine, shared), (theirs, alone) = found[:: 1 if number % 2 else -1]
            worst = max(worst, *(abs(mine[name] - theirs[name]) for name in leaves))
            rounds.append((alone, shared))
    size = sum(parameter.numel() for parameter in model.model.parameters())
    print(
        f"{len(leaves)} metrics that need a pass, {size:,} parameters, {model.compute}, "
        f"{model.model.device}"
    )
    tell(rounds)
    print(f"largest difference of a value: {worst:.1e}")


def tell(rounds: list[tuple[Spent, Spent]]) -> None:
    """Seconds of each round's two ways, and the median of their ratios."""
    print("| pass | seconds of | one pass a metric | shared | ratio |\n|---|---|---:|---:|---:|")
    for what in PASSES:
        for clock in ("cpu", "wall"):
            pairs = [
                (getattr(alone, clock)[what], getattr(shared, clock)[what])
                for alone, shared in rounds
            ]
            told = (", ".join(f"{pair[way]:.1f}" for pair in pairs) for way in (0, 1))
            ratio = middle.median(first / max(second, 1e-9) for first, second in pairs)
            print(f"| {what} | {clock} | {' | '.join(told)} | {ratio:.1f} |")


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
