"""A whole audit: the facts, the models one after the other, and what came of it."""

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unteach.audits import row_checks
from unteach.audits.attacks.base import AUDITED, ORIGINAL, RETAIN, AuditContext, ScoreAttack
from unteach.audits.attacks.processor_off import list_processors
from unteach.audits.audited_model import AuditedModel
from unteach.audits.battery import BatteryPlan, Findings, plan_battery, run_battery, show_pass
from unteach.audits.candidates import draw_candidates
from unteach.audits.endpoint import (
    AskServer,
    EndpointModel,
    Unanswered,
    describe_requests,
    drop_unservable,
    refuse_template,
    warn_of_sending,
)
from unteach.audits.engine_model import (
    BuildEngine,
    EngineModel,
    describe_settings,
    drop_weight_attacks,
    find_longest,
    refuse_unserved,
)
from unteach.audits.fact_rows import read_rows
from unteach.audits.facts import Fact, read_facts
from unteach.audits.judge_model import judge_model
from unteach.audits.lessons import Teach
from unteach.audits.scores import Scores, run_score_attacks
from unteach.audits.taught_rows import group_by_row
from unteach.audits.verdict import Verdict
from unteach.config.audits import ENGINE, LOCAL, WORST, AuditSettings
from unteach.config.schema import PATH, AuditConfig, ModelConfig, TemplateArgs
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.errors import UserError
from unteach.evals.base import Progress
from unteach.models.loading import LoadedModel, load_empty
from unteach.seeds import derive_seed
from unteach.training.build_streams import build_rows

SHARED_ARGS = ("dtype", "attn_implementation", "device_map", "trust_remote_code")
"""What the models beside the audited one are loaded with as it is."""


@dataclass(frozen=True)
class AuditPlan:
    """What an audit will do.

    Attributes:
        context: the facts, and what attacks know beside the model.
        battery: which attacks ask what.
        models: by their part, in the order in which they are run.
        notes: about the rows.
        processors: what of the audited model stands between its logits and what it says.
        backend: what runs the models, or asks for them.
    """

    context: AuditContext
    battery: BatteryPlan
    models: Mapping[str, ModelConfig]
    notes: Sequence[str] = ()
    processors: Sequence[str] = ()
    backend: str = LOCAL


@dataclass(frozen=True)
class AuditResult:
    """What came of an audit.

    Attributes:
        findings: of each model and attack, by the number of the fact.
        verdict: of the audited model.
        unknown: facts that the original did not know, and that are not judged.
        scores: of each attack that gives numbers, the fact's by its own number.
        unanswered: of each model, why a server gave no answer, one for each question without.
    """

    findings: Mapping[str, Mapping[str, Findings]]
    verdict: Verdict
    unknown: Sequence[Fact] = field(default=())
    scores: Mapping[str, Scores] = field(default_factory=dict)
    unanswered: Mapping[str, Sequence[str]] = field(default_factory=dict)


def plan_audit(config: AuditConfig, empty: LoadedModel) -> AuditPlan:
    """Read the facts and have the attacks say what they ask; no weights are needed.

    Raises:
        UserError: rows that are no facts, a classifier, or a model beside the audited one that
            spells them in other tokens.
    """
    if empty.head is not None:
        raise UserError("a classifier writes no answers; audit a language model")
    if config.backend is not None:
        refuse_template(config.model.template_args)
    forget_rows, notes = build_stream(config, empty, "forget")
    retain_rows, notes_of_retain = build_stream(config, empty, "retain")
    holdout_rows, notes_of_holdout = build_stream(config, empty, "holdout")
    assert forget_rows is not None, "the configuration is checked for it"
    settings = config.audit
    most = settings.max_passages
    facts = read_facts(forget_rows, read_rows(retain_rows) if retain_rows else (), most)
    retain = read_facts(retain_rows, read_rows(forget_rows), most) if retain_rows else []
    row_checks.refuse_unaskable(facts, "forget", config.backend is not None)
    forget = facts
    facts, left_out = _thin_out(facts, settings.max_facts, config.seed)
    candidates = draw_candidates(facts, [*retain, *left_out], config.seed)
    never_seen: list[Fact] = []
    if holdout_rows:
        held_out = read_facts(holdout_rows, max_passages=most)
        row_checks.refuse_unaskable(held_out, "holdout", config.backend is not None)
        row_checks.refuse_other_control(held_out, forget)
        row_checks.refuse_seen_rows(held_out, {"forget": forget, "retain": retain})
        held_out, _ = _thin_out(held_out, settings.max_facts, config.seed)
        never_seen = _number_never_seen(held_out, len(facts), len(group_by_row(forget)))
        candidates += draw_candidates(never_seen, [*facts, *retain, *left_out], config.seed)
    models = {}
    for part, path in ((ORIGINAL, settings.original), (RETAIN, settings.retain_model)):
        if path is not None and config.backend is not None:
            models[part] = ModelConfig({PATH: path})
        elif path is not None:
            models[part] = _configure_other(config.model, path, empty)
    models[AUDITED] = config.model
    context = AuditContext(
        facts=[*facts, *never_seen],
        candidates=candidates,
        retain=retain,
        template=empty.template.switch_off_thinking(),
        seed=config.seed,
        parts=tuple(models),
    )
    _refuse_bounded_score(settings)
    battery = plan_battery(settings.attacks, context, empty)
    if config.backend is not None:
        can_continue = config.backend.continue_final_message
        battery = drop_unservable(battery, settings.attacks, can_continue)
    if config.engine is not None:
        _refuse_what_engine_leaves_out(settings, models)
        battery = drop_weight_attacks(battery, settings.attacks, ENGINE)
    notes = [*notes, *notes_of_retain, *notes_of_holdout]
    processors = list_processors(empty)
    return AuditPlan(context, battery, models, notes, processors, config.backend_name)


def carry_out(
    plan: AuditPlan,
    config: AuditConfig,
    dist: DistContext,
    progress: Progress,
    teach: Teach,
    ask: AskServer | None = None,
    build_engine: BuildEngine | None = None,
) -> AuditResult:
    """Run the battery on each model, and judge the audited one.

    Args:
        teach: trains copies of the models.
        ask: asks the server that has the models; None: they are run here.
        build_engine: builds what runs the models here; None: transformers does.
    """
    findings: dict[str, dict[str, Findings]] = {}
    unanswered: dict[str, Sequence[str]] = {}
    models: dict[str, AuditedModel] = {}
    for part, model_config in plan.models.items():
        show = functools.partial(show_pass, progress, part)
        if ask is not None:
            endpoint = _build_endpoint(config, model_config, ask)
            findings[part] = endpoint.run_battery(plan.battery, plan.context, show)
            unanswered[part] = endpoint.unanswered
            continue
        models[part] = model = _build_model(plan, model_config, config, dist, build_engine)
        findings[part] = run_battery(plan.battery, plan.context, model, show, teach)
    scores = run_score_attacks(plan.battery.attacks, plan.context, models, progress)
    return replace(judge_known_facts(plan, findings, scores), unanswered=unanswered)


def _build_model(
    plan: AuditPlan,
    model: ModelConfig,
    config: AuditConfig,
    dist: DistContext,
    build_engine: BuildEngine | None,
) -> AuditedModel:
    batch_size, cache = config.audit.batch_size, Path(config.paths.cache_dir)
    if build_engine is None:
        return AuditedModel(model, batch_size, cache, dist)
    longest = find_longest(plan.battery, plan.context)
    settings = describe_settings(ENGINE, config.engine)
    return EngineModel(model, batch_size, cache, dist, build_engine, longest, settings)


def describe_endpoint(plan: AuditPlan, config: AuditConfig) -> list[str]:
    """Describe what an audit of an endpoint still sends there, and at what price; nothing of a
    model that is run here."""
    if config.backend is None:
        return []
    lines = [warn_of_sending(config.backend.base_url)]
    for model_config in plan.models.values():
        endpoint = _build_endpoint(config, model_config, _refuse_asking)
        prices = config.audit.price_per_million_tokens
        lines.append(describe_requests(endpoint, plan.battery, plan.context, prices))
    return lines


def _build_endpoint(config: AuditConfig, model: ModelConfig, ask: AskServer) -> EndpointModel:
    return EndpointModel(
        name=str(model.model_args[PATH]),
        address=config.backend.base_url,
        system_prompt=config.model.template_args.system_prompt,
        cache=Path(config.paths.cache_dir),
        ask=ask,
    )


def _refuse_asking(*_: object) -> Iterator[tuple[int, str | Unanswered]]:
    raise AssertionError("a plan asks nothing")


def judge_known_facts(
    plan: AuditPlan,
    findings: Mapping[str, Mapping[str, Findings]],
    scores: Mapping[str, Scores],
) -> AuditResult:
    """Judge the audited model on the facts that the original knew."""
    facts = plan.context.audited
    unknown: list[Fact] = []
    original = findings.get(ORIGINAL)
    if original is not None:
        known = {index for found in original.values() for index in found if found[index].leaks}
        unknown = [fact for fact in facts if fact.index not in known]
        facts = [fact for fact in facts if fact.index in known]
        if not facts:
            raise UserError(
                f"audit.original: it knows none of the {len(unknown)} facts, so there was nothing "
                "to forget; name the model that was taught them"
            )
    verdict = judge_model(plan.battery.attacks, plan.context, findings, facts)
    return AuditResult(findings, verdict, unknown, scores)


def _refuse_what_engine_leaves_out(
    settings: AuditSettings, models: Mapping[str, ModelConfig]
) -> None:
    if settings.batch_size is not None:
        raise UserError(
            f"audit.batch_size: backend={ENGINE} makes its batches itself; "
            "backend_args.max_num_seqs bounds them"
        )
    for model in models.values():
        refuse_unserved(str(model.model_args[PATH]), load_empty(model), ENGINE)


def _refuse_bounded_score(settings: AuditSettings) -> None:
    """Raise UserError where a condition bounds what is no share of facts."""
    condition = settings.parse_condition()
    if condition is None:
        return
    if isinstance(settings.attacks.get(condition.name), ScoreAttack):
        raise UserError(
            f"audit.fail_if: {condition.name} gives facts numbers, and no share of them comes out; "
            f"name another attack or {WORST}"
        )


def build_stream(
    config: AuditConfig, empty: LoadedModel, name: str
) -> tuple[Stream | None, Sequence[str]]:
    """Build a stream of the configuration, with notes about its rows; None where it has none."""
    parts = config.data.streams.get(name) or config.data.measured.get(name)
    if not parts:
        return None, []
    datasets, notes = build_rows(empty, name, parts, config.seed)
    return Stream(name, datasets), notes


def _number_never_seen(facts: Sequence[Fact], first: int, first_row: int) -> list[Fact]:
    """Number the facts that no model was taught, and their rows, after the others."""
    numbered = []
    for fact in facts:
        row = None if fact.row is None else first_row + fact.row
        numbered.append(replace(fact, index=first + fact.index, row=row, never_seen=True))
    return numbered


def _thin_out(facts: Sequence[Fact], most: int | None, seed: int) -> tuple[list[Fact], list[Fact]]:
    """Draw some of the facts, numbered anew; the others come second."""
    if most is None or most >= len(facts):
        return list(facts), []
    rng = random.Random(derive_seed(seed, "facts"))
    drawn = sorted(rng.sample(range(len(facts)), most))
    kept = [replace(facts[old], index=new) for new, old in enumerate(drawn)]
    return kept, [fact for index, fact in enumerate(facts) if index not in set(drawn)]


def configure_model_like(
    model: ModelConfig, path: str, template_args: TemplateArgs | None = None
) -> ModelConfig:
    """Configure another model to be loaded and asked as one is.

    Args:
        template_args: how it is asked; None: by the configuration of the other.
    """
    args = {name: model.model_args[name] for name in SHARED_ARGS if name in model.model_args}
    return ModelConfig({**args, PATH: path}, template_args=template_args or model.template_args)


def _configure_other(model: ModelConfig, path: str, empty: LoadedModel) -> ModelConfig:
    """Configure a model that stands beside the audited one: loaded and asked as that is.

    Raises:
        UserError: it spells the facts in other tokens.
    """
    config = configure_model_like(model, path, empty.template.args)
    own, other = empty.tokenizer, load_empty(config).tokenizer
    if own.get_vocab() != other.get_vocab():
        raise UserError(
            f"{path}: its tokenizer is another than the audited model's, and both are asked in the "
            "same tokens; name a model with the same tokenizer"
        )
    return config
