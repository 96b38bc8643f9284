"""What `unteach forget` is told: the rows, the model, and two dials. Nothing else is asked."""

from dataclasses import dataclass, field
from typing import Literal

from unteach.config.verb_configs import PASSED_ON, POSITIONAL
from unteach.errors import UserError

BUDGET = 0.02
AUTO = "auto"
YES, NO = "yes", "no"
LAUNCH_WORDS = ("launch", "nproc")
SHARED_WORDS = ("model", "paths", "plugins", "seed", "template")
"""Beginnings of the words that go to all runs that a request is made of."""
LOOK_WORDS = (*SHARED_WORDS, "data")
"""To the first look at the model: it alone reads the files of the user."""
RUN_WORDS = (*SHARED_WORDS, *LAUNCH_WORDS, "trainer")
"""To the runs of the methods."""
AUDIT_WORDS = (*SHARED_WORDS, "audit")
"""To the audits of what came of them."""
ALL_WORDS = tuple(dict.fromkeys((*LOOK_WORDS, *RUN_WORDS, *AUDIT_WORDS)))
BASE_PATH = "model.base_path"
SAID_OTHERWISE = {
    "audit": "level=",
    "audit.also": "",
    "audit.fail_if": "",
    "audit.level": "level=",
    "audit.original": "",
    "audit.retain_model": "retain_model=",
    "model.merge_adapter": "",
    "model.peft_args": "",
    "paths.output_dir": "task_name=",
    "trainer": "method=",
    "trainer.land": "budget=",
    "trainer.land.budget": "budget=",
}
"""Words of runs that a request says itself, and by what; nothing: it is no choice."""


@dataclass(frozen=True)
class ForgetConfig:
    """What `unteach forget` is told.

    rows: the file of rows to forget. model: a folder, a run or a hub id. retain: rows to keep.
    holdout: rows that no model was taught: prompts for the budget, and a control of the audits.
    retain_model: one that never saw the rows: the audits' gold standard. task_name: names the
    folder; null: by the model and the rows. budget: how far the model may move, KL in nats a token.
    method: methods that are tried, of those that `unteach forget --help` lists; auto: the usual
    ones. exact: whether the run that taught the rows is taught anew without them, in place of all
    methods (yes), or only said to be possible, with its price (auto), or not looked for (no).
    level: of the audits. keep: whether candidates keep their weights. jobs: runs at a time.
    sign_key: a PEM file of an ed25519 key, with which the statement is signed. gguf: whether the
    adapter that is given is written as a file for llama.cpp too. slurm: settings of a job, as a
    study has them (slurm.time, slurm.gpus, …): the request is handed over to Slurm. words: that go
    on to the runs.
    """

    names: list[str] = field(metadata={POSITIONAL: True})
    model: str
    retain: str | None = None
    holdout: str | None = None
    retain_model: str | None = None
    task_name: str | None = None
    budget: float = BUDGET
    method: list[str] | str = AUTO
    exact: Literal["auto", "yes", "no"] = "auto"
    level: str = "quick"
    keep: bool = False
    jobs: int = 1
    sign_key: str | None = None
    gguf: bool = False
    slurm: dict[str, object] = field(default_factory=dict)
    words: list[str] = field(default_factory=list, metadata={PASSED_ON: ALL_WORDS})

    def __post_init__(self) -> None:
        if len(self.names) != 1:
            raise UserError(
                f"name one file of rows to forget, got {len(self.names)}: unteach forget ROWS "
                "model=MODEL"
            )
        if not self.budget > 0:
            raise UserError(f"budget must be above 0, got {self.budget}")
        for word in self.words:
            key = word.lstrip("+~").partition("=")[0]
            if key == BASE_PATH:
                raise UserError(
                    f"{key}: a request needs an adapter that names its base itself; this writes "
                    f"one: unteach export ADAPTER as=adapter to=FOLDER {key}=BASE"
                )
            if key.startswith("model.peft_args."):
                key = "model.peft_args"
            if key in SAID_OTHERWISE:
                instead = SAID_OTHERWISE[key]
                hint = f"here it is {instead}" if instead else "leave it out"
                raise UserError(f"{key}: a request says that of its runs itself; {hint}")
        if self.jobs < 1:
            raise UserError(f"jobs must be 1 or more, got {self.jobs}")
        if self.exact == YES:
            self._refuse_search()

    @property
    def may_end_early(self) -> bool:
        """Whether the search ends at a method that leaves nothing: nobody named any, and one is
        tried at a time."""
        return self.method == AUTO and self.jobs == 1

    def _refuse_search(self) -> None:
        """Refuse what is said of the search for a method where there is none."""
        said = []
        if self.method != AUTO:
            said.append("method=")
        if self.budget != BUDGET:
            said.append("budget=")
        said += [word for word in self.words if word.lstrip("+~").startswith("trainer.")]
        if said:
            raise UserError(
                f"exact=yes teaches the run anew, with its own settings, and tries no method: "
                f"leave {', '.join(said)} out, or exact=yes"
            )

    @property
    def rows(self) -> str:
        return self.names[0]
