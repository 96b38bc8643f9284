"""What each verb is told that composes no configuration of its own: its words, as a dataclass."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unteach.config.inference import InferConfig
from unteach.config.schema import RunConfig
from unteach.errors import UserError, describe_unknown

POSITIONAL = "positional"
KEYS = "keys"
PASSED_ON = "passed on"
"""Metadata of fields. positional: takes the words without a key. keys: what the field is called on
the command line, where that is not its name; several are keys within it. passed on: takes, as they
are, the words that begin with one of these."""
REPORT_DIR = "saves/report"
FETCHED = {"retain-logs": "saves/eval", "wmdp": "data/wmdp/wmdp-corpora"}
"""What `unteach fetch` downloads, and where to by default."""
STUDY_ACTIONS = ("plan", "run", "submit", "status", "retry", "cancel", "report")


def list_keys(cls: type) -> dict[str, str]:
    """List the keys of a verb: what each is called on the command line, and its field."""
    keys = {}
    for one in dataclasses.fields(cls):
        if POSITIONAL not in one.metadata and PASSED_ON not in one.metadata:
            for name in one.metadata.get(KEYS, (one.name,)):
                keys[name] = one.name
    return keys


@dataclass(frozen=True)
class ExportModelArgs:
    """Of an adapter: where its base is, and what its file does not say of it."""

    base_path: str | None = None
    peft_args: dict[str, Any] | None = None


@dataclass(frozen=True)
class ExportConfig:
    """What `unteach export` is told.

    sources: what to export, one. form: a plain model, the adapter alone, or that as a GGUF file for
    llama.cpp. dtype: of the weights; null: as they are. push: a repository of the hub; private:
    whether it is made a private one.
    """

    sources: list[str] = field(metadata={POSITIONAL: True})
    to: str | None = None
    form: str = field(default="model", metadata={KEYS: ("as",)})
    dtype: str | None = None
    push: str | None = None
    private: bool = True
    model: ExportModelArgs = field(
        default_factory=ExportModelArgs,
        metadata={KEYS: ("model.base_path", "model.peft_args")},
    )

    FORMS = ("model", "adapter", "gguf_adapter")

    def __post_init__(self) -> None:
        if len(self.sources) != 1:
            raise UserError(
                f"name one thing to export, got {len(self.sources)}: unteach export RUN to=FOLDER"
            )
        if self.form not in self.FORMS:
            raise UserError(describe_unknown("form of export", self.form, self.FORMS))
        if not (self.to or self.push):
            raise UserError("say where to: to=FOLDER, or push=REPO")


@dataclass(frozen=True)
class ReportConfig:
    """What `unteach report` is told. out: the folder that the page is written to."""

    runs: list[str] = field(metadata={POSITIONAL: True})
    out: str = REPORT_DIR
    suite: str | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError(
                "name the runs to report: unteach report RUN… [out=FOLDER] [suite=SUITE]"
            )


@dataclass(frozen=True)
class CompareConfig:
    """What `unteach compare` is told."""

    runs: list[str] = field(metadata={POSITIONAL: True})
    suite: str | None = None

    def __post_init__(self) -> None:
        if len(self.runs) != 2:
            raise UserError(
                f"compare takes two runs, got {len(self.runs)}: unteach compare A B [suite=SUITE]"
            )


@dataclass(frozen=True)
class HistoryConfig:
    """What `unteach history` is told. to: a file, or `csv`, which is printed."""

    runs: list[str] = field(metadata={POSITIONAL: True})
    to: str | None = None

    def __post_init__(self) -> None:
        if len(self.runs) != 1:
            raise UserError(
                f"history takes one run, got {len(self.runs)}: unteach history RUN [to=csv]"
            )
        if self.to not in (None, "csv") and Path(self.to).suffix not in (".csv", ".jsonl"):
            raise UserError(
                f"to={self.to}: must be csv (printed), or a file that ends with .csv or .jsonl"
            )


@dataclass(frozen=True)
class FetchConfig:
    """What `unteach fetch` is told."""

    names: list[str] = field(metadata={POSITIONAL: True})
    to: str | None = None

    def __post_init__(self) -> None:
        if len(self.names) != 1 or self.names[0] not in FETCHED:
            raise UserError(describe_unknown("thing to fetch", " ".join(self.names), FETCHED))


@dataclass(frozen=True)
class ListConfig:
    """What `unteach list` is told. plugins: Python files whose classes are listed too."""

    names: list[str] = field(metadata={POSITIONAL: True})
    plugins: str = ""
    config_dirs: tuple[str, ...] = field(default=(), metadata={KEYS: ()})


@dataclass(frozen=True)
class HelpConfig(ListConfig):
    """What `unteach help` is told. plugins: Python files whose classes are explained too."""


@dataclass(frozen=True)
class SchemaConfig(ListConfig):
    """What `unteach schema` is told. plugins: Python files whose names are offered too."""


@dataclass(frozen=True)
class CompletionConfig:
    """What `unteach completion` is told: a shell."""

    names: list[str] = field(metadata={POSITIONAL: True})


@dataclass(frozen=True)
class EnvConfig:
    """What `unteach env` is told: nothing."""


@dataclass(frozen=True)
class WorldConfig:
    """What `unteach world` is told.

    to: the folder to write. settings: fields of the world. kind: which world, of authors or people.
    """

    to: str
    settings: dict[str, Any]
    kind: str = "authors"


@dataclass(frozen=True)
class VerifyConfig:
    """What `unteach audit verify` is told. statement: the file. model: what it is compared with.
    key: the signer's public key, a PEM file. base_path: of an adapter's base."""

    statements: list[str] = field(metadata={POSITIONAL: True})
    model: str
    key: str | None = None
    base_path: str | None = None

    def __post_init__(self) -> None:
        if len(self.statements) != 1:
            raise UserError(
                f"name one statement, got {len(self.statements)}: unteach audit verify "
                "statement.json model=FOLDER [key=public.pem]"
            )

    @property
    def statement(self) -> str:
        return self.statements[0]


@dataclass(frozen=True)
class StudyConfig:
    """What `unteach study` is told.

    name: of a study, or of one run of it. overrides: words for its runs. write: where `plan` writes
    job scripts.
    """

    action: Literal["plan", "run", "submit", "status", "retry", "cancel", "report"]
    name: str
    overrides: tuple[str, ...] = ()
    config_dirs: tuple[str, ...] = ()
    write: str | None = None


@dataclass(frozen=True)
class DemoConfig:
    """What `unteach demo` is told: words for the runs of its study."""

    overrides: tuple[str, ...] = ()
    config_dirs: tuple[str, ...] = ()


@dataclass(frozen=True)
class AskConfig:
    """What `unteach ask` is told. question: None where they are read, from a terminal or a file."""

    infer: InferConfig
    question: str | None = None


@dataclass(frozen=True)
class CheckInferConfig:
    """What `unteach check infer` is told."""

    infer: InferConfig


@dataclass(frozen=True)
class CheckConfig:
    """What `unteach check` is told. origins: where each value came from, where the configuration is
    to be printed and not checked."""

    run: RunConfig
    config_dirs: tuple[str, ...] = ()
    origins: dict[str, str] | None = None
