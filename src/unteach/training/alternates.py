"""The other answers that a method lets the model itself invent, once, before anything is
trained."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unteach import atomic, fingerprints, json_files
from unteach.data.handlers.qa import Example, example_of
from unteach.data.streams import ALTERNATE, Stream
from unteach.data.template import Template
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.models.loading import LoadedModel
from unteach.models.placement import is_placed_by_device_map
from unteach.seeds import permutation, subseed

BATCH = 32


@dataclass
class Invented:
    """A dataset of other answers: `texts` of each row, of which every epoch takes another until all
    were taken."""

    template: Template
    questions: list[str]
    texts: list[list[str]]
    seed: int

    def __len__(self) -> int:
        return len(self.questions)

    def variant(self, row: int, epoch: int) -> dict[str, Example]:
        texts = self.texts[row]
        round_, turn = divmod(epoch, len(texts))
        chosen = texts[permutation(len(texts), self.seed, "alternates", row, round_)[turn]]
        return {ALTERNATE: example_of(self.template.encode(self.questions[row], chosen), row)}


def invent(
    method: Any, loaded: LoadedModel, forget: Stream, seed: int, cache: Path, dist: Any
) -> Invented:
    """Samples `n_alternates` answers to what `method.ask` asks about each row; `cache` keeps them
    for the next run."""
    if odd := [type(part).__name__ for part in forget.parts if not hasattr(part, "text")]:
        raise UserError(
            f"data.forget: {odd[0]} has no questions and answers to invent other answers to"
        )
    for part, row in forget.where:
        if hasattr(part, "context_place") and (place := part.context_place(row)):
            raise UserError(
                f"{place}: other answers are invented to a question by itself, and this row has a "
                "system prompt or earlier turns; leave them out, or give the other answers in a "
                "column alternate"
            )
    rows = [part.text(row) for part, row in forget.where]
    asked = [loaded.template.encode_prompt(method.ask(*row)) for row in rows]
    weights = loaded.identity(cache / fingerprints.MEMORY_FILE)
    settings = [
        method.n_alternates,
        method.temperature,
        method.max_new_tokens,
        seed,
        loaded.compute,
    ]
    path = cache / "alternates" / f"{fingerprints.hash_value([weights, settings, asked])}.json"
    if not path.exists():
        if dist.is_main:
            print(
                f"the model invents {method.n_alternates} other answers to each of {len(rows)} "
                f"rows",
                flush=True,
            )
        texts = _sampled(method, loaded, asked, seed, dist)
        if dist.is_main:
            atomic.write_json(path, texts)
        dist.barrier()
    kept = json_files.read_json(path, "the invented answers")
    return Invented(loaded.template, [question for question, _ in rows], kept, seed)


def _sampled(
    method: Any, loaded: LoadedModel, asked: list[Any], seed: int, dist: Any
) -> list[list[str]]:
    """The first paragraph of each sample, a list a row."""
    alone = replace(dist, mode="ddp")  # the model is not sharded yet
    model = (
        loaded.model
        if is_placed_by_device_map(loaded.model, dist)
        else loaded.model.to(dist.device)
    )
    engine = HFEngine(model, loaded.tokenizer, BATCH, alone, stops=loaded.template.stops)
    prompts = [prompt for prompt in asked for _ in range(method.n_alternates)]
    with loaded.autocast():
        seeds = subseed(seed, "alternates")
        made = engine.generate(
            prompts, method.max_new_tokens, seed=seeds, temperature=method.temperature
        )
    texts = [loaded.template.text(ids).strip().split("\n\n")[0] for ids in made]
    return [texts[i : i + method.n_alternates] for i in range(0, len(texts), method.n_alternates)]
