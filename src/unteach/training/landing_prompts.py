"""After what a model writes the texts on which a landing is measured: the prompts that a run names,
or openings of no subject."""

import itertools

from unteach.config.schema import LANDING, TrainConfig
from unteach.data.examples import read_prompt
from unteach.data.streams import Stream
from unteach.engines.base import Ids
from unteach.errors import UserError
from unteach.models.loading import LoadedModel
from unteach.seeds import permutation
from unteach.training.build_streams import build_rows
from unteach.training.drift import list_openings


def list_prompts(config: TrainConfig, loaded: LoadedModel, num_texts: int) -> list[Ids]:
    """List a prompt for each text: rows of `data.landing` drawn by the run's seed, or openings,
    over again where there are fewer.

    Raises:
        UserError: a row asks nothing.
    """
    prompts = list_openings(loaded.template)
    parts = config.data.streams.get(LANDING)
    if parts is not None:
        datasets, _ = build_rows(loaded, LANDING, parts, config.seed)
        stream = Stream(LANDING, datasets)
        rows = permutation(len(stream), config.seed, LANDING)[:num_texts]
        prompts = [_read_prompt(stream, row) for row in rows]
    return list(itertools.islice(itertools.cycle(prompts), num_texts))


def _read_prompt(stream: Stream, row: int) -> Ids:
    prompt = read_prompt(stream.example(row))
    if not prompt:
        raise UserError(
            f"data.{LANDING}: {stream.locate(row)} asks nothing that a model could write an answer "
            "to; give rows of questions or prompts"
        )
    return tuple(prompt)
