"""The section `audit`: which attacks are made, on how many facts, and which models stand beside the
audited one."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from unteach import registry
from unteach.config.reader import Reader
from unteach.errors import UserError, describe_unknown

VALUE, KIND, ENTITY = "value", "kind", "entity"
"""Columns of a fact's row: what makes its answer the true one, of which kind that is, and about
whom."""
KEYS, KINDS = "keys", "kinds"
"""Columns of lists: the entities that a row is about, and the kind of each."""
PARAPHRASES = ("paraphrased_question", "paraphrase", "paraphrases")
"""Columns of other ways to ask."""
FACT_COLUMNS = (VALUE, KIND, ENTITY, KEYS, KINDS, *PARAPHRASES)
"""Columns that an audit reads beside question and answer."""
LOCAL, ENGINE, ENDPOINT = "hf", "vllm", "openai"
"""The backends of an audit: transformers in this process, vLLM in it, and a server with OpenAI's
protocol."""
CONDITION = re.compile(r"\s*(\w+)\s*(>=|>)\s*([0-9.eE+-]+)\s*$")
WORST = "worst_leak"
"""What a condition calls the share of facts that any attack brought out, less that of the first
control that there is: the retain model, facts that were never seen, wrong answers."""


@dataclass(frozen=True)
class FailIf:
    """A bound that ends an audit with exit code 5: `worst_leak>0.05`, or an attack's name in its
    place."""

    name: str
    bound: float
    is_strict: bool

    def is_met(self, rate: float) -> bool:
        return rate > self.bound if self.is_strict else rate >= self.bound


@dataclass(frozen=True)
class AuditSettings:
    """What an audit does.

    level: its name. attacks: by name, each with its fields; null takes one out. only: the names of
    those that are made; null: all. max_facts: at most so many facts, drawn by the seed; null: all.
    max_passages: of one document, at most.
    batch_size: an upper bound; null: as many as there is memory for.
    also: more models that are audited beside the first, each in a folder of its own; one table.
    original: the model that knew the facts: what there was to forget, and which attacks have power.
    retain_model: one that never saw them. fail_if: `worst_leak>0.05` ends with exit code 5.
    price_per_million_tokens: of an endpoint, for what it reads and what it writes; null: not known.
    sign_key: of statement.json. redact: whether rows and answers stand in the files as keyed
    hashes; redaction_key: the file of that key.
    """

    level: str
    attacks: dict[str, Any]
    only: list[str] | None = None
    max_facts: int | None = None
    max_passages: int = 4
    batch_size: int | None = None
    also: list[str] = field(default_factory=list)
    original: str | None = None
    retain_model: str | None = None
    fail_if: str | None = None
    price_per_million_tokens: list[float] | None = None
    sign_key: str | None = None
    redact: bool = False
    redaction_key: str | None = None

    def __post_init__(self) -> None:
        if not self.attacks:
            raise UserError("attacks: names none")
        for name in self.only or ():
            if name not in self.attacks:
                raise UserError(
                    f"only: {describe_unknown('attack of this audit', name, self.attacks)}"
                )
        if self.max_facts is not None and self.max_facts < 1:
            raise UserError(f"max_facts must be at least 1, got {self.max_facts}")
        if self.max_passages < 1:
            raise UserError(f"max_passages must be at least 1, got {self.max_passages}")
        prices = self.price_per_million_tokens
        if prices is not None and (len(prices) != 2 or min(prices) < 0):
            raise UserError(
                "price_per_million_tokens must be two prices, [of tokens read, of tokens written], "
                f"got {prices}"
            )
        self.parse_condition()

    def parse_condition(self) -> FailIf | None:
        """Parse `fail_if`; None where there is none."""
        if self.fail_if is None:
            return None
        match = CONDITION.match(self.fail_if)
        try:
            name, sign, bound = match.groups() if match else ("", "", "")
            condition = FailIf(name, float(bound), sign == ">")
        except ValueError:
            raise UserError(
                f"fail_if must be NAME>NUMBER, such as {WORST}>0.05 or rank>0.1, got {self.fail_if}"
            ) from None
        if condition.name != WORST and condition.name not in self.attacks:
            allowed = ", ".join([WORST, *self.attacks])
            raise UserError(f"fail_if: {condition.name} is no attack of this audit; {allowed}")
        return condition


def parse_audit(reader: Reader, value: dict[str, Any]) -> AuditSettings | None:
    """Parse the section `audit`, with each attack built."""
    settings: AuditSettings | None = reader.record(AuditSettings, value, "audit")
    if settings is None:
        return None
    attacks = {}
    for name, fields in settings.attacks.items():
        if fields is None or (settings.only is not None and name not in settings.only):
            continue
        path = f"audit.attacks.{name}"
        given = dict(reader.value(dict[str, Any], fields, path) or {})
        registered = str(given.pop("attack", name))
        try:
            cls = registry.attack.get(registered)
        except UserError as error:
            reader.wrong(path, str(error))
            continue
        attack = reader.record(cls, given, path)
        if attack is not None:
            attacks[name] = attack
    if not attacks:
        reader.wrong("audit.attacks", "none is left; `unteach list attacks` shows them")
        return None
    return replace(settings, attacks=attacks)


def parse_backend(reader: Reader, name: object, args: object) -> Any:
    """Build the backend that an audit asks by; None where transformers runs the model."""
    if name in (None, LOCAL):
        if args:
            reader.wrong(
                "backend_args",
                f"are of another backend: set backend={ENDPOINT} or backend={ENGINE}, or none",
            )
        return None
    if name not in (ENGINE, ENDPOINT):
        reader.wrong(
            "backend",
            f"an audit runs a model itself (backend={LOCAL}, or backend={ENGINE}) or asks an "
            f"endpoint (backend={ENDPOINT}), got {name}; a model that a server has is an endpoint: "
            f"backend={ENDPOINT} backend_args.base_url=http://HOST:8000/v1",
        )
        return None
    return reader.record(registry.backend.get(str(name)), args or {}, "backend_args")
