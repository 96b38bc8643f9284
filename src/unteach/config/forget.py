"""What `unteach forget` is told: the rows, the model, and two dials. Nothing else is asked."""

from dataclasses import dataclass, field

from unteach.config.verb_configs import PASSED_ON, POSITIONAL
from unteach.errors import UserError

BUDGET = 0.02
AUTO = "auto"
RUN_WORDS = ("data", "launch", "model", "nproc", "paths", "plugins", "seed", "template", "trainer")
"""Beginnings of the words that go to the runs that a request is made of."""
LOOK_WORDS = ("data", "model", "paths", "plugins", "seed", "template")
"""Beginnings of those that go to the first look at the model, at all rows."""
AUDIT_WORDS = ("audit", *LOOK_WORDS)
"""Beginnings of those that go to audits of what came of it."""


@dataclass(frozen=True)
class ForgetConfig:
    """What `unteach forget` is told.

    rows: the file of rows to forget. model: a folder, a run or a hub id. retain: rows to keep.
    holdout: rows that no model was taught: prompts for the budget, and a control of the audits.
    retain_model: one that never saw the rows: the audits' gold standard. task_name: names the
    folder; null: by the model and the rows. budget: how far the model may move, KL in nats a token.
    method: methods that are tried, of those that `unteach forget --help` lists; auto: the usual
    ones. level: of the audits. keep: whether candidates keep their weights. jobs: runs at a time.
    sign_key: a PEM file of an ed25519 key, with which the statement is signed. words: that go on to
    the runs.
    """

    names: list[str] = field(metadata={POSITIONAL: True})
    model: str
    retain: str | None = None
    holdout: str | None = None
    retain_model: str | None = None
    task_name: str | None = None
    budget: float = BUDGET
    method: list[str] | str = AUTO
    level: str = "quick"
    keep: bool = False
    jobs: int = 1
    sign_key: str | None = None
    words: list[str] = field(default_factory=list, metadata={PASSED_ON: (*RUN_WORDS, "audit")})

    def __post_init__(self) -> None:
        if len(self.names) != 1:
            raise UserError(
                f"name one file of rows to forget, got {len(self.names)}: unteach forget ROWS "
                "model=MODEL"
            )
        if not self.budget > 0:
            raise UserError(f"budget must be above 0, got {self.budget}")
        if self.jobs < 1:
            raise UserError(f"jobs must be 1 or more, got {self.jobs}")

    @property
    def rows(self) -> str:
        return self.names[0]
