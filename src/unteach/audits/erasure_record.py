"""A record of an erasure request and of what was done about it in a model, in Markdown.

It documents, and a person decides. The words are those of Opinion 28/2024 of the European Data
Protection Board on AI models: what is likely, by which means, on what evidence. Nothing here calls
a result of attacks a proof of deletion. Source: GDPR, Art. 5(2), 12, 17 and 19.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from unteach.atomic import write_text
from unteach.audits.redaction import REDACTED
from unteach.config.reader import Reader, join_problems
from unteach.console import neutralize
from unteach.errors import UserError

TEMPLATE = "erasure_record.md.jinja"
MARKUP = re.compile(r"([\\`*\[\]<>|~&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
"""What Markdown, or the HTML inside it, would read as more than text; inside a word `_` is text."""


@dataclass(frozen=True)
class ErasureFacts:
    """What a record says. Lists have an item a line; no field holds the personal data itself.

    Attributes:
        request: what was asked for: a reference number and the scope, not the name of the person.
        rows: the rows it is about, as `hmac:…` (audit/redaction.py) under the key of `key_id`.
        actions: what was done in the model: the method with its settings, or a retraining.
        subjects: the models before and after, by the sha256 of their files or by the statement's
            name.
        versions: the versions of the software, by package.
        cost: what it cost, by what was measured: hours, KL on other text, utility before and after.
        evidence: what was measured, and where it is kept: the statement, the audit's files.
        residual_risk: what may still be there, in words.
        upper_bound: the upper end of the interval of the rate of facts that leak in the worst case
            over all attacks, in [0, 1].
        confidence: of that interval.
        num_facts: on how many facts it was measured.
        not_tested: attacks and means that were not tried, each with its reason.
        decided_by: who decides whether the request is met: a person or an office, by its function.
        received: the day on which the request came in; "" leaves a line for it.
        key_id: which key the rows were hashed with (Redactor.key_id).
        outside: what outside the model somebody has looked after already: backups, recipients.
    """

    request: str
    rows: list[str]
    actions: list[str]
    subjects: list[str]
    versions: dict[str, str]
    cost: dict[str, str]
    evidence: list[str]
    residual_risk: str
    upper_bound: float
    num_facts: int
    not_tested: list[str]
    decided_by: str
    confidence: float = 0.95
    received: str = ""
    key_id: str = ""
    outside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for row in self.rows:
            if not REDACTED.fullmatch(row):
                raise UserError(
                    "rows: each must be a keyed hash (hmac: and 64 hexadecimal digits), as "
                    "unteach.audits.redaction makes it; a text, or a plain hash that can be "
                    "reversed by trying, would be the personal data again"
                )
        if not 0 <= self.upper_bound <= 1:
            raise UserError(f"upper_bound: must be a rate from 0 to 1, got {self.upper_bound}")
        if not 0 < self.confidence < 1:
            raise UserError(f"confidence: must be between 0 and 1, got {self.confidence}")
        if self.num_facts < 1:
            raise UserError("num_facts: a rate of no facts has no upper bound; audit some first")

    @property
    def upper_percent(self) -> float:
        """The upper bound in per cent, rounded up to a tenth: rounding down would claim more."""
        tenths = round(1000 * self.upper_bound, 6)
        return math.ceil(tenths) / 10


def read_facts(facts: Mapping[str, object]) -> ErasureFacts:
    """Read the facts of a record from plain values.

    Args:
        facts: by the names of ErasureFacts.

    Raises:
        UserError: which lists every field that is unknown, missing or of another kind.
    """
    reader = Reader()
    read: ErasureFacts | None = reader.record(ErasureFacts, dict(facts), "")
    if read is None:
        raise UserError(f"a record of erasure: {join_problems(reader.problems)}")
    return read


def render_erasure_record(facts: Mapping[str, object]) -> str:
    """Render a record in Markdown; see read_facts for its argument and errors."""
    # Whatever a request, a model or a metric is called is text, and never markup.
    environment = Environment(
        finalize=_escape_value, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("unteach.audits").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(facts=read_facts(facts)) + "\n"


def write_erasure_record(path: Path, facts: Mapping[str, object]) -> None:
    """Write a record in Markdown, whole or not at all; see read_facts for the errors."""
    write_text(path, render_erasure_record(facts))


def _escape_value(value: object) -> object:
    """Make a value one line of Markdown that says what it says and does nothing else."""
    if not isinstance(value, str):
        return value
    line = " ".join(neutralize(value).split())
    return MARKUP.sub(r"\\\1", line)
