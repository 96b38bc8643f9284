"""Three ways to continue many prompts whose answers are of very unequal length.

    python benchmarks/generation.py [model=FOLDER | layers=4 width=256 ends=32] [rows=128]
                                    [max_new_tokens=128] [rounds=3] [batches=[16,32,64,128]]

`ours` is `engines/generation.py`, `sorted` the library's `generate` over the same prompts in
batches of one size, sorted by length, and `library` its own continuous batching,
`generate_batch`. All are greedy and take the same token ids to the same token ids; the batch size
of `sorted` is the best of several, which is found first and not counted.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unteach.config.environment import prepare_environment

prepare_environment()

import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402

from inference import prompts_of, random_model  # noqa: E402
from unteach.engines.hf import HFEngine  # noqa: E402

Generate = Callable[[], list[list[int]]]
PAGE_TOKENS = 32
"""Tokens in a page of the library's paged cache: its default of 256 is longer than most rows."""


class Ways:
    """The three ways to the same continuations, on one loaded model."""

    def __init__(self, model: Any, tokenizer: Any, texts: list[str], max_new_tokens: int):
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens = max_new_tokens
        self.prompts = [tokenizer(text)["input_ids"] for text in texts]
        stops = model.generation_config.eos_token_id
        self.stops = stops if isinstance(stops, list) else [stops]
        self.engine = HFEngine(model, tokenizer, stops=self.stops)

    def ours(self) -> list[list[int]]:
        prompts = [tuple(prompt) for prompt in self.prompts]
        with torch.no_grad():
            return self.engine.generate(prompts, self.max_new_tokens)

    def sorted(self, batch_size: int) -> list[list[int]]:
        order = sorted(range(len(self.prompts)), key=lambda i: -len(self.prompts[i]))
        texts: dict[int, list[int]] = {}
        for first in range(0, len(order), batch_size):
            indices = order[first : first + batch_size]
            rows = [self.prompts[i] for i in indices]
            inputs = {"input_ids": rows}
            batch = self.tokenizer.pad(inputs, padding_side="left", return_tensors="pt")
            output = self.model.generate(
                **batch.to(self.model.device),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                eos_token_id=self.stops,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            new = output[:, batch["input_ids"].shape[1] :].tolist()
            texts.update(zip(indices, map(self.drop_stop, new), strict=True))
        return [texts[i] for i in range(len(order))]

    def library(self) -> list[list[int]]:
        longest = max(map(len, self.prompts)) + self.max_new_tokens
        num_pages = len(self.prompts) * (longest // PAGE_TOKENS + 1)
        # Without a number of pages it takes 60 % of the machine's free memory on a CPU, and fills
        # it: that alone took 18 s.
        config = transformers.ContinuousBatchingConfig(
            num_blocks=num_pages, page_size=PAGE_TOKENS, max_batch_tokens=2048
        )
        generation = transformers.GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=self.stops,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        outputs = self.model.generate_batch(
            self.prompts, generation_config=generation, continuous_batching_config=config
        )
        return [self.drop_stop(output.generated_tokens) for output in outputs.values()]

    def drop_stop(self, row: list[int]) -> list[int]:
        is_stop = (i for i, token in enumerate(row) if token in self.stops)
        return row[: next(is_stop, len(row))]


def measure(generate: Generate) -> tuple[float, float, list[list[int]]]:
    """Measure one pass: seconds by the clock, seconds of the process, and what it gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    texts = generate()
    return time.perf_counter() - wall, time.process_time() - cpu, texts


def load(options: dict[str, Any]) -> tuple[Any, Any]:
    """Load the model that is named, or make a random one."""
    with tempfile.TemporaryDirectory() as made:
        folder = options.get("model") or made
        if folder == made:
            sizes = options.get("layers", 4), options.get("width", 256), options.get("ends", 32)
            random_model(Path(made), *sizes)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def main(options: dict[str, Any]) -> None:
    rows, rounds = int(options.get("rows", 128)), int(options.get("rounds", 3))
    model, tokenizer = load(options)
    ways = Ways(model, tokenizer, prompts_of(rows), int(options.get("max_new_tokens", 128)))

    # The first pass of a process warms it up; then the best batch size is found.
    sizes = options.get("batches", [16, 32, 64, 128])
    ways.sorted(sizes[0])
    seconds = {size: measure(lambda size=size: ways.sorted(size))[1] for size in sizes}
    best = min(seconds, key=lambda size: seconds[size])

    generators: dict[str, Generate] = {
        "ours": ways.ours,
        "sorted": lambda: ways.sorted(best),
        "library": ways.library,
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in generators}
    texts: dict[str, list[list[int]]] = {}
    for _ in range(rounds):
        for name, generate in generators.items():
            wall, cpu, texts[name] = measure(generate)
            times[name].append((wall, cpu))
    print_table(ways, times, texts, best)


def print_table(
    ways: Ways,
    times: dict[str, list[tuple[float, float]]],
    texts: dict[str, list[list[int]]],
    best: int,
) -> None:
    num_parameters = sum(parameter.numel() for parameter in ways.model.parameters())
    lengths = sorted(map(len, texts["ours"]))
    print(
        f"{num_parameters:,} parameters, {len(lengths)} rows, texts of {lengths[0]} to "
        f"{lengths[-1]} tokens (median {statistics.median(lengths):.0f}), sorted in batches of "
        f"{best}, {len(times['ours'])} rounds, medians\n"
    )
    print("| way | CPU s | clock s | CPU s against ours |\n|---|---:|---:|---:|")
    medians = {}
    for name, measured in times.items():
        medians[name] = [statistics.median(column) for column in zip(*measured, strict=True)]
    for name, (wall, cpu) in medians.items():
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {cpu / medians['ours'][1]:.2f} |")
    print()
    for name in ("sorted", "library"):
        num_apart = sum(a != b for a, b in zip(texts[name], texts["ours"], strict=True))
        print(f"rows whose text differs from ours, {name}: {num_apart}")


if __name__ == "__main__":
    words = (word.split("=", 1) for word in sys.argv[1:])
    main({key: yaml.safe_load(value) for key, value in words})
