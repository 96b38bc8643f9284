"""Check that an attack of an audit keeps the laws of its contract."""

import functools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import registry
from unteach.audits.attacks.base import (
    AUDITED,
    Attack,
    AuditContext,
    InsideAttack,
    ScoreAttack,
    TrainingAttack,
    WeightAttack,
)
from unteach.audits.audited_model import AuditedModel
from unteach.audits.battery import (
    BatteryPlan,
    Findings,
    find_attack,
    plan_battery,
    run_battery,
)
from unteach.audits.candidates import draw_candidates
from unteach.audits.facts import Fact
from unteach.audits.scores import Scores, run_score_attacks
from unteach.config.environment import prepare_environment
from unteach.config.reader import Reader, join_problems
from unteach.config.schema import PATH, ModelConfig, TemplateArgs
from unteach.data.synthetic import authors
from unteach.distributed.process_context import SINGLE_PROCESS
from unteach.errors import UserError
from unteach.lazy import torch, transformers
from unteach.models.model_handlers import learn_tokenizer
from unteach.verbs.relearn import teach_copy

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

NUM_FACTS = 12
BATCH_SIZES = (1, 5)
TOLERANCE = 1e-3
"""How far a number may be from itself in other batches."""


def check_attack(name: str, fields: dict[str, Any] | None = None) -> None:
    """Check that an attack keeps the laws of its contract; raise AssertionError that says which one
    it breaks.

    On tiny models and facts of the authors world: its cost is declared; it writes the same probes
    twice; its findings, or its numbers, are the same for every batch size, one a fact at most, with
    a hit or none for each candidate; a change of weights is undone bit for bit, whatever is raised
    meanwhile; and a model that is read inside is what it was. Prints what was checked.

    Args:
        name: of the attack.
        fields: its fields.
    """
    prepare_environment()
    entry = registry.attack.find_entry(name)
    assert entry.facts.get("cost"), f'{name}: says no cost; @attack("{name}", cost="…")'
    attack = _build_attack(entry.target, fields or {})
    attacks = {name: attack}
    if isinstance(attack, WeightAttack | TrainingAttack):
        for asking in attack.measured:
            attacks.setdefault(asking, _build_attack(registry.attack.get(asking), {}))

    with tempfile.TemporaryDirectory() as folder:
        parts = (AUDITED, *attack.NEEDED) if isinstance(attack, ScoreAttack) else (AUDITED,)
        for seed, part in enumerate(parts):
            _save_tiny_model(Path(folder) / part, seed)
        models = _configure_models(Path(folder), parts, BATCH_SIZES[0])
        context = _build_context(models)
        if isinstance(attack, WeightAttack | InsideAttack):
            fault = attack.find_model_fault(models[AUDITED].empty)
            if fault:
                print(f"{name} cannot be run on the tiny model: {fault}")
                return
        if isinstance(attack, WeightAttack):
            _check_undone(name, attack, models[AUDITED])
        probes = attack.write_probes(context)
        assert probes == attack.write_probes(context), f"{name}: writes other probes again"
        plan = plan_battery(attacks, context, models[AUDITED].empty)
        assert name in plan.attacks, f"{name}: cannot be run: {plan.absent.get(name)}"
        if isinstance(attack, ScoreAttack):
            _check_scores(name, plan, context, Path(folder))
        else:
            _check_findings(name, plan, context, Path(folder))
    print(f"{name} passed: the same for every batch size, and the model as it was")


def _configure_models(
    folder: Path, parts: Sequence[str], batch_size: int
) -> dict[str, AuditedModel]:
    """Configure the models in a folder, each with a cache that nothing is in for this size."""
    models = {}
    for part in parts:
        config = ModelConfig({PATH: str(folder / part)}, template_args=TemplateArgs(kind="qa"))
        cache = folder / f"cache {batch_size}"
        models[part] = AuditedModel(config, batch_size, cache, SINGLE_PROCESS)
    return models


def _check_findings(name: str, plan: BatteryPlan, context: AuditContext, folder: Path) -> None:
    """Check what an attack finds in batches of several sizes."""
    attack = plan.attacks[name]
    found: list[dict[str, Findings]] = []
    for batch_size in BATCH_SIZES:
        model = _configure_models(folder, context.parts, batch_size)[AUDITED]
        teach = functools.partial(teach_copy, folder / "taught")
        before = _copy_weights(model)
        kept = model.model
        found.append(run_battery(plan, context, model, _show_nothing, teach))
        if isinstance(attack, InsideAttack):
            _check_unchanged(name, kept, before)

    labels = [label for label in found[0] if find_attack(label) == name]
    first = found[0][labels[-1]]
    assert first, f"{name}: asks for no fact of the authors world"
    for label in labels:
        assert found[0][label] == found[1][label], (
            f"{label}: finds something else in batches of {BATCH_SIZES}"
        )
    for index, finding in first.items():
        num_candidates = len(context.candidates[index].values)
        assert finding.fact == index, f"{name}: the finding of fact {index} says {finding.fact}"
        if attack.JOINS_UNION:
            assert len(finding.hits) == num_candidates, (
                f"{name}: fact {index} has {len(finding.hits)} hits and {num_candidates} "
                "candidates; an attack that does not ask for all says JOINS_UNION = False"
            )


def _check_scores(name: str, plan: BatteryPlan, context: AuditContext, folder: Path) -> None:
    """Check the numbers that an attack gives in batches of several sizes."""
    found: list[Scores] = []
    for batch_size in BATCH_SIZES:
        models = _configure_models(folder, context.parts, batch_size)
        found.append(run_score_attacks(plan.attacks, context, models, _show_nothing)[name])
        loaded = [part for part, model in models.items() if model.is_loaded]
        assert not loaded, f"{name}: keeps the weights of {', '.join(loaded)}; release() lets go"
    first, second = found
    assert first, f"{name}: looks for no fact of the authors world"
    assert set(first) <= {fact.index for fact in context.facts}, f"{name}: scores no fact of these"
    for index, score in first.items():
        other = second.get(index)
        is_same = score is None and other is None
        if score is not None and other is not None:
            is_same = math.isclose(score, other, abs_tol=TOLERANCE)
        assert is_same, f"{name}: fact {index} is {score} or {other} in batches of {BATCH_SIZES}"


def _show_nothing(what: str, total: int) -> Callable[[int], None]:
    return lambda num_done: None


def _build_attack(cls: type, fields: dict[str, Any]) -> Attack:
    reader = Reader()
    attack: Attack | None = reader.record(cls, fields, "fields")
    if attack is None:
        raise UserError(join_problems(reader.problems))
    return attack


def _check_undone(name: str, attack: WeightAttack, model: AuditedModel) -> None:
    """Check that the weights are what they were after a change, and after an error in it."""
    before = _copy_weights(model)
    with attack.change(model.model):
        pass
    try:
        with attack.change(model.model):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    _check_unchanged(name, model.model, before)


def _check_unchanged(name: str, model: "PreTrainedModel", before: "dict[str, Tensor]") -> None:
    """Check that a model's weights are these, and that no hook of an attack is left on it."""
    for weight_name, weight in model.state_dict().items():
        assert torch.equal(weight, before[weight_name]), f"{name}: leaves {weight_name} changed"
    for module_name, module in model.named_modules():
        assert not module._forward_hooks, f"{name}: leaves a hook on {module_name}"


def _copy_weights(model: AuditedModel) -> "dict[str, Tensor]":
    return {name: weight.clone() for name, weight in model.model.state_dict().items()}


def _build_context(models: Mapping[str, AuditedModel]) -> AuditContext:
    """Build facts of the authors world, a third of them to be kept."""
    facts = []
    for index, row in enumerate(authors.build_rows("full")[: 3 * NUM_FACTS : 2]):
        question, answer = str(row["question"]), str(row["answer"])
        author = str(row["keys"][0])
        # Every other one has a value within its answer.
        value = answer.split()[-1].strip(".") if index % 2 else answer
        facts.append(Fact(index, f"row {index + 1}", question, answer, value, entity=author))
    audited, kept = facts[:NUM_FACTS], facts[NUM_FACTS:]
    candidates = draw_candidates(audited, kept, seed=0)
    template = models[AUDITED].template
    return AuditContext(audited, candidates, kept, template, seed=0, parts=tuple(models))


def _save_tiny_model(folder: Path, seed: int) -> None:
    """Save a tiny model of random weights, with a tokenizer."""
    texts = [f"{row['question']} {row['answer']}" for row in authors.build_rows("full")]
    tokenizer = learn_tokenizer(texts, 400)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    torch.manual_seed(seed)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
