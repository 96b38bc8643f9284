"""Check that an attack of an audit keeps the laws of its contract."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import registry
from unteach.audits.attacks.base import Attack, AuditContext, TrainingAttack, WeightAttack
from unteach.audits.audited_model import AuditedModel
from unteach.audits.battery import Findings, find_attack, plan_battery, run_battery
from unteach.audits.candidates import draw_candidates
from unteach.audits.facts import Fact
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

NUM_FACTS = 12
BATCH_SIZES = (1, 5)


def check_attack(name: str, fields: dict[str, Any] | None = None) -> None:
    """Check that an attack keeps the laws of its contract; raise AssertionError that says which one
    it breaks.

    On a tiny model and facts of the authors world: its cost is declared; it writes the same probes
    twice; its findings are the same for every batch size, one a fact at most, with a hit or none
    for each candidate; and a change of weights is undone bit for bit, whatever is raised
    meanwhile. Prints what was checked.

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
        _save_tiny_model(Path(folder))
        found: list[dict[str, Findings]] = []
        for batch_size in BATCH_SIZES:
            cache = Path(folder) / f"cache {batch_size}"
            teach = functools.partial(teach_copy, Path(folder) / f"taught {batch_size}")
            config = ModelConfig({PATH: folder}, template_args=TemplateArgs(kind="qa"))
            model = AuditedModel(config, batch_size, cache, SINGLE_PROCESS)
            context = _build_context(model)
            if isinstance(attack, WeightAttack):
                fault = attack.find_model_fault(model.empty)
                if fault:
                    print(f"{name} cannot be run on the tiny model: {fault}")
                    return
                _check_undone(name, attack, model)
            else:
                probes = attack.write_probes(context)
                assert probes == attack.write_probes(context), f"{name}: writes other probes again"
            plan = plan_battery(attacks, context, model.empty)
            assert name in plan.attacks, f"{name}: cannot be run: {plan.absent.get(name)}"
            found.append(run_battery(plan, context, model, _show_nothing, teach))

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
    print(f"{name} passed: the same findings for every batch size, and the model as it was")


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
    for weight_name, weight in _copy_weights(model).items():
        assert torch.equal(weight, before[weight_name]), f"{name}: leaves {weight_name} changed"


def _copy_weights(model: AuditedModel) -> "dict[str, Tensor]":
    return {name: weight.clone() for name, weight in model.model.state_dict().items()}


def _build_context(model: AuditedModel) -> AuditContext:
    """Build facts of the authors world, a third of them to be kept."""
    facts = []
    for index, row in enumerate(authors.build_rows("full")[: 3 * NUM_FACTS : 2]):
        question, answer = str(row["question"]), str(row["answer"])
        author = str(row["keys"][0])
        # Every other one has a value within its answer.
        value = answer.split()[-1].strip(".") if index % 2 else answer
        facts.append(Fact(index, f"row {index + 1}", question, answer, value, entity=author))
    audited, kept = facts[:NUM_FACTS], facts[NUM_FACTS:]
    return AuditContext(audited, draw_candidates(audited, kept, seed=0), kept, model.template, 0)


def _save_tiny_model(folder: Path) -> None:
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
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
