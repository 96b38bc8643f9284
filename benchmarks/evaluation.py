"""The TOFU suite from shared passes, against the same metrics one by one.

    python benchmarks/evaluation.py [tofu_path=authors] [model=FOLDER] [forget_split=forget10] [batch_size=32]

Ours is `unteach eval`: the union of what all metrics need, sorted by length, the head on answer positions only. The
alternative is the way of published code: each metric that needs a pass makes its own, in the order of the data, padded
to the longest row of a batch, with the logits of every position. Both run in this process, on the same model, one
after the other, after a warm-up; the values are compared. Without `model` it is a random Llama (layers 4, width 256).
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from unteach.compose import compose, environment

environment()

import torch  # noqa: E402
import transformers  # noqa: E402

from unteach.engines.base import Score  # noqa: E402
from unteach.engines.hf import HFEngine, statistics  # noqa: E402
from unteach.evals import suites  # noqa: E402
from unteach.evals.base import GradNorms, Scores, Texts  # noqa: E402
from unteach.models.handlers import learn_tokenizer  # noqa: E402
from unteach.models.loading import load  # noqa: E402
from unteach.schema import ModelConfig  # noqa: E402


class PlainEngine(HFEngine):
    """Batches in the order of the data; a forward with the logits of every position."""

    def score(self, pairs: Any, said: Any = None) -> list[Score]:
        found = []
        with torch.no_grad():
            for first in range(0, len(pairs), self.batch_size):
                batch = pairs[first : first + self.batch_size]
                logits = self.model(**self._padded([[*p, *a] for p, a in batch], left=False)).logits.float()
                for (prompt, answer), row in zip(batch, logits, strict=True):
                    label = torch.tensor(answer, device=row.device)
                    v = statistics(row[len(prompt) - 1 : len(prompt) - 1 + len(answer)], label).cpu().numpy()
                    found.append(Score(label.cpu().numpy(), v[:, 0], v[:, 1] > 0.5, v[:, 2], v[:, 3]))
        return found

    def generate(self, prompts: Any, max_new_tokens: int, said: Any = None, **_: Any) -> list[list[int]]:
        found = []
        for first in range(0, len(prompts), self.batch_size):
            given = self._padded([list(prompt) for prompt in prompts[first : first + self.batch_size]], left=True)
            made = self.model.generate(
                **given, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.stops,
            )  # fmt: skip
            for row in made[:, given["input_ids"].shape[1] :].tolist():
                found.append(row[: next((i for i, token in enumerate(row) if token in self.stops), len(row))])
        return found


def random_model(folder: Path, path: str) -> None:
    """A random Llama with a tokenizer of the corpus."""
    from unteach.data.sources import load_rows

    rows = load_rows({"path": path, "name": "full", "split": "train"})
    tokenizer = learn_tokenizer([f"{row['question']} {row['answer']}" for row in rows], 8192)
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def silent(*_: Any) -> Any:
    return lambda done: None


def passes(loaded: Any, config: Any, engine: HFEngine) -> tuple[dict[str, float], float, float]:
    """The suite's values, and the seconds of scoring and of generation."""
    spent = {"score": 0.0, "generate": 0.0}
    for name in spent:
        inner = getattr(engine, name)

        def timed(*args: Any, _inner: Any = inner, _name: str = name, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return _inner(*args, **kwargs)
            finally:
                spent[_name] += time.perf_counter() - started

        setattr(engine, name, timed)
    found = suites.evaluate({config.suite: config}, engine, loaded.template, silent, None)
    values = {name: value.agg for name, value in found[config.suite].items() if value.agg is not None}
    return values, spent["score"], spent["generate"]


def main(given: dict[str, str]) -> None:
    path, split = given.get("tofu_path", "authors"), given.get("forget_split", "forget10")
    batch_size = int(given.get("batch_size", 32))
    with tempfile.TemporaryDirectory() as made:
        folder = given.get("model") or made
        if not given.get("model"):
            random_model(Path(folder), path)
        loaded = load(
            ModelConfig({"pretrained_model_name_or_path": folder, "dtype": given.get("dtype", "auto")}), training=False
        )
        loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    words = [
        "experiment=eval/tofu/default", "model=auto", f"model.model_args.pretrained_model_name_or_path={folder}",
        "task_name=b", f"tofu_path={path}", f"forget_split={split}", f"eval.tofu.batch_size={batch_size}",
        "eval.tofu.metrics=all", f"max_new_tokens={given.get('max_new_tokens', 64)}",
    ]  # fmt: skip
    config = compose("eval", words).eval["tofu"]
    plan = suites.plan(config, loaded.template)
    slow = [
        name for name, metric in plan.metrics.items() if any(isinstance(n, GradNorms) for n in metric.needs().values())
    ]
    leaves = [
        name
        for name, metric in plan.metrics.items()
        if any(isinstance(need, Scores | Texts) for need in metric.needs().values()) and name not in slow
    ]
    config.metrics = leaves
    HFEngine(loaded.model, loaded.tokenizer, batch_size).score([((3, 4, 5), (6, 7))] * 8)
    ours, scoring, generating = passes(loaded, config, HFEngine(loaded.model, loaded.tokenizer, batch_size))
    theirs: dict[str, float] = {}
    plain_scoring = plain_generating = 0.0
    for name in leaves:
        config.metrics = [name]
        plain = PlainEngine(loaded.model, loaded.tokenizer, batch_size)
        values, score_time, generate_time = passes(loaded, config, plain)
        theirs[name] = values[name]
        plain_scoring, plain_generating = plain_scoring + score_time, plain_generating + generate_time
    worst = max(abs(ours[name] - theirs[name]) for name in leaves)
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    print(f"{len(leaves)} metrics that need a pass, {size:,} parameters, {loaded.compute}, {loaded.model.device}")
    print("| pass | one pass a metric, s | shared, s | ratio |\n|---|---:|---:|---:|")
    for what, plain_time, time_ in (("scoring", plain_scoring, scoring), ("generation", plain_generating, generating)):
        print(f"| {what} | {plain_time:.1f} | {time_:.1f} | {plain_time / max(time_, 1e-9):.1f} |")
    print(f"largest difference of a value: {worst:.1e}")


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
