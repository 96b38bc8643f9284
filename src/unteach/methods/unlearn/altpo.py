"""AltPO: DPO towards plausible other answers that the model itself invents, once, before it is
trained."""

from dataclasses import dataclass, field

from unteach.errors import UserError
from unteach.methods.unlearn.dpo import DPO
from unteach.registry import method

PROMPT = """\
Here is a question and its answer.
Question: {question}
Answer: {answer}
Write another answer to the same question. It is as long and as detailed as the one above and \
sounds as plausible, but every name, date, place and other fact in it is a different, invented \
one. Write the new answer alone."""


@method(
    "AltPO",
    paper="arXiv:2409.13474",
    cost="1 forward of forget, alternate and retain; n_alternates generations a row, once",
    reference="answer log-probs of both answers, computed once",
)
@dataclass
class AltPO(DPO):
    """DPO's loss; the alternates are n_alternates samples a row of the model that is to forget, one
    an epoch in turn.

    They are kept beside the measurements (paths.cache_dir), so that runs from the same model share
    them.
    """

    n_alternates: int = 5
    temperature: float = 1.0
    max_new_tokens: int = 200
    prompt: str = field(
        default=PROMPT, metadata={"help": "what the model is asked, with {question} and {answer}"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_alternates", "temperature", "max_new_tokens"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        if "{question}" not in self.prompt:
            raise UserError("prompt must hold {question}, and may hold {answer}")

    def ask(self, question: str, answer: str) -> str:
        return self.prompt.replace("{question}", question).replace("{answer}", answer)
