"""Rows per second of `unteach infer` against a plain loop over model.generate and against
transformers.pipeline.

    python benchmarks/inference.py [model=FOLDER | layers=4 width=256 ends=32] [rows=128]
                                   [max_new_tokens=128] [rounds=3] [batches=[8,16,32,64]]

The plain loop and the pipeline take the rows in the order of the file, at the best of the fixed
batch sizes, which is found first. Then the three ways take turns. All are greedy and must say the
same; loading is not counted.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unteach.config.environment import prepare_environment

prepare_environment()

import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402

from unteach.config.inference import Sampling  # noqa: E402
from unteach.config.schema import ModelConfig, TemplateArgs  # noqa: E402
from unteach.data.synthetic.authors import build_rows as build_authors_rows  # noqa: E402
from unteach.data.template import Template  # noqa: E402
from unteach.distributed.process_context import init_distributed  # noqa: E402
from unteach.inference.backends.base import Job, Request  # noqa: E402
from unteach.inference.backends.hf import CausalLMSession, HuggingFace  # noqa: E402
from unteach.models.model_handlers import learn_tokenizer  # noqa: E402
from unteach.seeds import derive_seed  # noqa: E402


def random_model(folder: Path, layers: int, width: int, ends: int) -> None:
    """A random Llama whose texts end after very unequal lengths: one token in `ends` is an end of
    sequence."""
    said = [f"{row['question']} {row['answer']}" for row in build_authors_rows("full")]
    tokenizer = learn_tokenizer(said, 4096)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        initializer_range=0.1,
    )
    model = transformers.LlamaForCausalLM(config)
    model.generation_config.eos_token_id = list(range(2, len(tokenizer), ends))
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prompts_of(count: int) -> list[str]:
    """One to eight questions of the authors world each, in an order that knows nothing of their
    length."""
    questions = [row["question"] for row in build_authors_rows("full")]
    many = [1 + derive_seed(0, "many", i) % 8 for i in range(count)]
    return [
        " ".join(questions[derive_seed(0, i, turn) % len(questions)] for turn in range(n))
        for i, n in enumerate(many)
    ]


class Ways:
    """Three ways to the same texts, on one loaded model."""

    def __init__(self, folder: str, prompts: list[str], most: int):
        self.prompts, self.sampling = prompts, Sampling(max_new_tokens=most)
        config = ModelConfig(
            {"pretrained_model_name_or_path": folder}, template_args=TemplateArgs(kind="raw")
        )
        session = HuggingFace().open(Job(config, "generate", self.sampling, init_distributed()))
        assert isinstance(session, CausalLMSession)
        self.session, self.model, self.tokenizer = (
            session,
            session.loaded.model,
            session.loaded.tokenizer,
        )
        self.model.eval()
        template = Template(self.tokenizer, TemplateArgs(kind="raw"))
        self.requests = [
            Request(i, template.encode_prompt(prompt)) for i, prompt in enumerate(prompts)
        ]
        self.tokenizer.padding_side = "left"
        self.pipe = transformers.pipeline(
            "text-generation", model=self.model, tokenizer=self.tokenizer
        )

    def ours(self, batch: int) -> list[str]:
        answers: dict[int, Any] = dict(self.session.generate(self.requests, self.sampling, set()))
        self.lengths = [answers[i][0].tokens for i in range(len(self.prompts))]
        return [answers[i][0].text for i in range(len(self.prompts))]

    def plain(self, batch: int) -> list[str]:
        texts = []
        for first in range(0, len(self.prompts), batch):
            given = self.tokenizer(
                self.prompts[first : first + batch], return_tensors="pt", padding=True
            )
            given = {
                name: given[name].to(self.model.device) for name in ("input_ids", "attention_mask")
            }
            with torch.no_grad():
                made = self.model.generate(
                    **given, max_new_tokens=self.sampling.max_new_tokens, do_sample=False
                )
            new = made[:, given["input_ids"].shape[1] :].tolist()
            texts += [
                self.tokenizer.decode(self.until_end(ids), skip_special_tokens=True) for ids in new
            ]
        return texts

    def pipeline(self, batch: int) -> list[str]:
        made = self.pipe(
            self.prompts,
            batch_size=batch,
            return_tensors=True,
            do_sample=False,
            max_new_tokens=self.sampling.max_new_tokens,
        )
        rows = [one[0]["generated_token_ids"] for one in made]
        prompts = [len(request.prompt) for request in self.requests]
        new = [self.unpadded(row)[n:] for row, n in zip(rows, prompts, strict=True)]
        return [self.tokenizer.decode(self.until_end(ids), skip_special_tokens=True) for ids in new]

    def unpadded(self, ids: Sequence[int]) -> list[int]:
        row = list(ids)
        while row and row[0] == self.tokenizer.pad_token_id:
            row.pop(0)
        return row

    def until_end(self, ids: Sequence[int]) -> list[int]:
        stops = set(self.session.engine.stops)
        return list(ids[: next((i for i, token in enumerate(ids) if token in stops), len(ids))])


def timed(way: Callable[[int], list[str]], batch: int) -> tuple[float, float, list[str]]:
    """(seconds by the clock, seconds of the CPU, texts)."""
    wall, cpu = time.perf_counter(), time.process_time()
    texts = way(batch)
    return time.perf_counter() - wall, time.process_time() - cpu, texts


def main(given: dict[str, Any]) -> None:
    rows, most, rounds = (
        int(given.get(n, d)) for n, d in (("rows", 128), ("max_new_tokens", 128), ("rounds", 3))
    )
    batches = given.get("batches", [8, 16, 32, 64])
    with tempfile.TemporaryDirectory() as made:
        folder = given.get("model") or made
        if not given.get("model"):
            random_model(
                Path(folder), given.get("layers", 4), given.get("width", 256), given.get("ends", 32)
            )
        ways = Ways(folder, prompts_of(rows), most)
    if len(batches) > 1:
        ways.plain(batches[0])
    best = (
        min(batches, key=lambda batch: timed(ways.plain, batch)[1])
        if len(batches) > 1
        else batches[0]
    )
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "pipeline": [], "ours": []}
    texts: dict[str, list[str]] = {}
    for _ in range(rounds):
        for name in found:
            wall, cpu, texts[name] = timed(getattr(ways, name), best)
            found[name].append((wall, cpu))
    lengths = [len(request.prompt) for request in ways.requests]
    size = sum(parameter.numel() for parameter in ways.model.parameters())
    told = [
        f"{min(n)} to {max(n)} tokens (median {statistics.median(n):.0f})"
        for n in (lengths, ways.lengths)
    ]
    print(f"{size:,} parameters, {rows} rows of {told[0]}, texts of {told[1]}")
    print(f"best fixed batch of {batches}: {best}; {rounds} rounds, medians\n")
    print("| way | rows/s | CPU s | clock s | CPU s against ours |\n|---|---:|---:|---:|---:|")
    middle = {
        name: [statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in found.items()
    }
    for name, (wall, cpu) in middle.items():
        print(
            f"| {name} | {rows / wall:.2f} | {cpu:.1f} | {wall:.1f} | "
            f"{cpu / middle['ours'][1]:.2f} |"
        )
    print()
    for name in ("plain", "pipeline"):
        apart = sum(one != other for one, other in zip(texts[name], texts["ours"], strict=True))
        print(f"rows whose text differs from ours, {name}: {apart}")


if __name__ == "__main__":
    main(
        {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in sys.argv[1:])}
    )
