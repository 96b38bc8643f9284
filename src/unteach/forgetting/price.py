"""What a request will cost: the tokens that its trainings and audits read and write, and how fast
this machine multiplies matrices. A forward pass takes 2 operations for each parameter and token, a
step of training three times that (arXiv:2001.08361, section 2.1)."""

import time
from dataclasses import dataclass
from statistics import fmean

from unteach.audits.attacks.base import TrainingAttack, WeightAttack
from unteach.audits.battery import limit_answers
from unteach.audits.probes import Probe, RankProbe, SampleProbe
from unteach.audits.session import AuditPlan
from unteach.forgetting.leak_by_budget import list_other_budgets
from unteach.forgetting.recipes import BATCH_SIZE, choose_num_steps
from unteach.lazy import torch
from unteach.wording import describe_minutes

FORWARD, TRAINING = 2, 6
"""Operations for each parameter and token."""
SIZE, SECONDS = 768, 0.3
"""The matrices that are multiplied to see how fast the machine is, and for how long."""
USED = 0.5
"""The share of that speed which a model reaches."""
STREAMS_OF_A_STEP = 2
"""A step of a method takes rows to forget and as many to keep."""
A_RUN = 5.0
"""Seconds that a run or an audit takes however small its model."""


@dataclass(frozen=True)
class Price:
    """What a request will cost on this machine, in seconds of each part.

    Attributes:
        training: of all methods.
        audits: of the model before, of each method, and of the chosen one at other budgets.
    """

    training: float
    audits: float

    @property
    def seconds(self) -> float:
        return self.training + self.audits


def estimate_price(
    plan: AuditPlan,
    num_parameters: int,
    num_methods: int,
    budget: float,
    seconds_a_row: float | None,
) -> Price:
    """Estimate what the search of a request costs, within a factor of two or so.

    Args:
        plan: of an audit of the model at the level of the request.
        seconds_a_row: that a row took when the model was trained; None where nobody knows.
    """
    speed = USED * measure_speed()
    if seconds_a_row is None:
        facts = plan.context.audited
        lengths = [len(plan.context.begin(fact, fact.answer)) for fact in facts]
        seconds_a_row = TRAINING * num_parameters * fmean(lengths) / speed
    num_rows = choose_num_steps(num_parameters) * BATCH_SIZE * STREAMS_OF_A_STEP
    num_audits = 1 + num_methods + len(list_other_budgets(budget))
    an_audit = FORWARD * num_parameters * count_audit_tokens(plan) / speed
    return Price(
        training=num_methods * (num_rows * seconds_a_row + A_RUN),
        audits=num_audits * (an_audit + A_RUN),
    )


def describe_price(price: Price) -> str:
    """Describe in words what the search costs."""
    return (
        f"the search takes {describe_minutes(price.seconds)} here, of which "
        f"{describe_minutes(price.training)} of training; it may be half or twice that, and what "
        "audits teach is not counted"
    )


def count_audit_tokens(plan: AuditPlan) -> int:
    """Count the tokens that a model reads and writes in an audit, its trainings left out."""
    limit = limit_answers(plan.context)
    battery = plan.battery
    asking: list[str] = []
    for name, attack in battery.attacks.items():
        if isinstance(attack, WeightAttack):
            asking += attack.measured
        elif not isinstance(attack, TrainingAttack):
            asking.append(name)
    probes = [probe for name in asking for probe in battery.probes.get(name, ())]
    return sum(_count_tokens(probe, limit) for probe in probes)


def _count_tokens(probe: Probe, limit: int) -> int:
    if isinstance(probe, RankProbe):
        return len(probe.prompt) + sum(map(len, probe.continuations))
    count = probe.count if isinstance(probe, SampleProbe) else 1
    return count * (len(probe.prompt) + limit)


def measure_speed() -> float:
    """Measure how many operations a second this machine does, multiplying matrices in fp32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(SIZE, SIZE, device=device)
    float((matrix @ matrix)[0, 0])
    num_products = 0
    started_at = time.perf_counter()
    while time.perf_counter() - started_at < SECONDS:
        float((matrix @ matrix)[0, 0])
        num_products += 1
    return num_products * 2 * SIZE**3 / (time.perf_counter() - started_at)
