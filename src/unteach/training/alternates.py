"""Let the model itself invent other answers, once, before a method trains on them."""

from dataclasses import dataclass, replace
from pathlib import Path

from unteach import atomic, console, fingerprints, json_files
from unteach.data.examples import Example, build_example
from unteach.data.streams import ALTERNATE, Stream
from unteach.data.template import Template
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Ids
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.methods.unlearn.altpo import AltPO
from unteach.models.loading import LoadedModel
from unteach.models.placement import is_placed_by_device_map
from unteach.seeds import derive_seed, permutation

BATCH_SIZE = 32


@dataclass
class InventedAnswers:
    """A dataset of other answers: each epoch takes another of a row's texts until all were taken.

    Attributes:
        template: which turns a question and an answer into tokens.
        questions: one a row.
        texts: the other answers of each row.
        seed: of the order in which a row's texts are taken.
    """

    template: Template
    questions: list[str]
    texts: list[list[str]]
    seed: int

    def __len__(self) -> int:
        return len(self.questions)

    def variant(self, row: int, epoch: int) -> dict[str, Example]:
        """Give the example of a row in an epoch."""
        texts = self.texts[row]
        cycle, position = divmod(epoch, len(texts))
        order = permutation(len(texts), self.seed, "alternates", row, cycle)
        text = texts[order[position]]
        return {ALTERNATE: build_example(self.template.encode(self.questions[row], text), row)}


def invent(
    method: AltPO,
    loaded: LoadedModel,
    forget: Stream,
    seed: int,
    cache_dir: Path,
    dist: DistContext,
) -> InventedAnswers:
    """Sample `n_alternates` answers to what `method.ask` asks about each row.

    They are kept in `cache_dir`, so that runs from the same model share them.
    """
    _refuse_unfit_rows(forget)
    rows = []
    prompts = []
    for row_index in range(len(forget)):
        dataset, row = forget.find(row_index)
        question, answer = dataset.text(row)
        rows.append((question, answer))
        prompts.append(loaded.template.encode_prompt(method.ask(question, answer)))
    weights = loaded.identity(cache_dir / fingerprints.MEMORY_FILE)
    settings = [
        method.n_alternates,
        method.temperature,
        method.max_new_tokens,
        seed,
        loaded.compute,
    ]
    cache_key = fingerprints.hash_value([weights, settings, prompts])
    path = cache_dir / "alternates" / f"{cache_key}.json"
    if not path.exists():
        if dist.is_main:
            console.say(
                f"the model invents {method.n_alternates} other answers to each of {len(rows)} rows"
            )
        texts = _sample_texts(method, loaded, prompts, seed, dist)
        if dist.is_main:
            atomic.write_json(path, texts)
        dist.barrier()
    kept_texts = json_files.read_json(path, "the invented answers")
    questions = [question for question, _ in rows]
    return InventedAnswers(loaded.template, questions, kept_texts, seed)


def _refuse_unfit_rows(forget: Stream) -> None:
    """Raise UserError for rows that are no question and answer by themselves."""
    for part in forget.datasets:
        if not hasattr(part, "text"):
            raise UserError(
                f"data.forget: {type(part).__name__} has no questions and answers to invent other "
                "answers to"
            )
    for row_index in range(len(forget)):
        part, row = forget.find(row_index)
        location = part.context_place(row) if hasattr(part, "context_place") else None
        if location:
            raise UserError(
                f"{location}: other answers are invented to a question by itself, and this row "
                "has a system prompt or earlier turns; leave them out, or give the other answers "
                "in a column alternate"
            )


def _sample_texts(
    method: AltPO, loaded: LoadedModel, prompts: list[Ids], seed: int, dist: DistContext
) -> list[list[str]]:
    """Sample texts for each prompt, and keep the first paragraph of each."""
    # The model is not wrapped yet: every process holds all of it, however it will be sharded.
    unsharded = replace(dist, mode="ddp")
    model = loaded.model
    if not is_placed_by_device_map(model, dist):
        model = model.to(dist.device)
    engine = HFEngine(model, loaded.tokenizer, BATCH_SIZE, unsharded, stops=loaded.template.stops)

    num_alternates = method.n_alternates
    repeated_prompts = []
    for prompt in prompts:
        repeated_prompts += [prompt] * num_alternates
    with loaded.autocast():
        continuations = engine.generate(
            repeated_prompts,
            method.max_new_tokens,
            seed=derive_seed(seed, "alternates"),
            temperature=method.temperature,
        )
    texts = []
    for continuation in continuations:
        paragraphs = loaded.template.decode(continuation).strip().split("\n\n")
        texts.append(paragraphs[0])
    return [texts[i : i + num_alternates] for i in range(0, len(texts), num_alternates)]
