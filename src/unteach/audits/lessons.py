"""Short trainings of a copy of the model, during which it is asked again."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from unteach import fingerprints
from unteach.audits.audited_model import AuditedModel
from unteach.audits.taught_rows import TaughtRow
from unteach.config.schema import PATH, ModelConfig
from unteach.engines.batching import get_device_type

TRAINING = (
    "trainer=finetune",
    "eval=null",
    "trainer.args.gradient_accumulation_steps=1",
    "trainer.args.lr_scheduler_type=constant",
    "trainer.args.warmup_steps=0",
    "trainer.args.weight_decay=0",
    "trainer.args.save_strategy=no",
)
"""What every lesson is trained with: nothing in it looks ahead to the last step."""
WITHOUT_EFFECT = (PATH, "dtype", "cache_dir", "token")
"""Arguments of a model that change nothing of it beyond its identity and its precision."""


@dataclass(frozen=True)
class OwnTexts:
    """Texts that the model writes itself before it is taught, by the lesson's seed: answers to
    openings of no subject where it chats, else texts from their first word. One that is cut at
    its longest is taught as if it ended there.

    Attributes:
        count: how many.
        max_tokens: of each at most.
    """

    count: int
    max_tokens: int


Rows = tuple[TaughtRow, ...] | OwnTexts
"""Rows as files have them, or the model's own texts."""


@dataclass(frozen=True)
class Lesson:
    """One training: a LoRA on a copy, at a constant rate, so that the copy after some steps is the
    same whatever comes after them.

    Attributes:
        rows: what is taught.
        learning_rate: of AdamW.
        looks: after how many steps the copy is asked, in any order; the last of them ends it.
        batch_size: rows of a step.
        rank: of the LoRA.
        seed: of the LoRA and the order of rows.
        turns: which answers of a conversation are learned.
    """

    rows: Rows
    learning_rate: float
    looks: tuple[int, ...]
    batch_size: int
    rank: int
    seed: int
    turns: Literal["all", "last"] = "all"

    def label_look(self, steps: int) -> str:
        """Call what the copy is after some steps by a short name."""
        return f"{self.learning_rate:g} x{steps}"


def hash_lesson(model: AuditedModel, lesson: Lesson) -> str:
    """Hash all that comes of a lesson of a model, which neither needs the weights nor teaches it.

    That is the model and how it is loaded, what makes its tokens, the rows, the fields of the
    lesson, the kind of device, and the versions of what trains; not where the model lies.
    """
    return fingerprints.hash_value([*_describe_start(model), TRAINING, asdict(lesson)])


def hash_own_texts(model: AuditedModel, own_texts: OwnTexts, seed: int) -> str:
    """Hash all that the texts which a model writes itself depend on."""
    return fingerprints.hash_value([*_describe_start(model), asdict(own_texts), seed])


def _describe_start(model: AuditedModel) -> list[Any]:
    """Describe a model as what is trained, or writes texts."""
    config = model.config
    model_args = {}
    for name, value in config.model_args.items():
        if name not in WITHOUT_EFFECT and value != "auto":
            model_args[name] = value
    loaded_by = [model_args, config.model_handler, config.pure_bf16, config.packed]
    computed_by = [model.empty.compute, get_device_type(), fingerprints.list_versions()]
    return [model.identity, model.tokenization, loaded_by, computed_by]


Teach = Callable[[AuditedModel, Lesson], Mapping[int, ModelConfig]]
"""Teaches a copy of a model, and gives what it was at each look, by the number of steps. Called
again it gives the same; what was cut off goes on."""
