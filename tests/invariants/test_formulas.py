"""Every method against its formula, written out on the library's own full logits: loss and gradient
norm."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import logsigmoid

from tests.conftest import read_rows
from unteach.config.schema import TemplateArgs
from unteach.data.template import Template
from unteach.testing import method_loss

LAYER = r"model\.layers\.2"


@dataclass
class Row:
    """One row as the library's own forward gives it; z predicts y, h is the layer's output at the
    answer tokens."""

    z: torch.Tensor
    y: torch.Tensor
    h: torch.Tensor
    whole: torch.Tensor
    ids: torch.Tensor

    @property
    def logp(self) -> torch.Tensor:
        return self.z.log_softmax(-1).gather(-1, self.y[:, None])[:, 0]

    @property
    def p(self) -> torch.Tensor:
        return self.logp.detach().exp()

    @property
    def all_logp(self) -> torch.Tensor:
        """log p of every token but the first, the question's too."""
        return self.whole[:-1].log_softmax(-1).gather(-1, self.ids[1:, None])[:, 0]


@dataclass
class Side:
    """What a model says of all rows."""

    forget: list[Row]
    alternate: list[Row]
    retain: list[Row]


def flat(rows: list[Any], value: Callable[..., torch.Tensor]) -> torch.Tensor:
    """The mean over the tokens of all rows."""
    return torch.cat([value(row) for row in rows]).mean()


def nll(rows: list[Row]) -> torch.Tensor:
    return flat(rows, lambda r: -r.logp)


def kl(policy: list[Row], reference: list[Row]) -> torch.Tensor:
    pairs = zip(policy, reference, strict=True)
    return torch.cat(
        [(r.z.softmax(-1) * (r.z.log_softmax(-1) - p.z.log_softmax(-1))).sum(-1) for p, r in pairs]
    ).mean()


def embed_diff(policy: list[Row], reference: list[Row]) -> torch.Tensor:
    return torch.stack(
        [(p.h - r.h).square().mean(-1).mean() for p, r in zip(policy, reference, strict=True)]
    ).mean()


def per_row(rows: list[Row], other: list[Row], value: Callable[..., torch.Tensor]) -> torch.Tensor:
    return torch.stack([value(a, b) for a, b in zip(rows, other, strict=True)]).mean()


def npo(p: Side, r: Side, beta: float) -> torch.Tensor:
    return per_row(
        p.forget,
        r.forget,
        lambda a, b: -2 / beta * logsigmoid(-beta * (a.logp.sum() - b.logp.sum())),
    )


def simnpo(p: Side, beta: float, delta: float) -> torch.Tensor:
    return torch.stack(
        [-2 / beta * logsigmoid(beta * (-a.logp.mean() - delta)) for a in p.forget]
    ).mean()


def dpo(p: Side, r: Side, beta: float) -> torch.Tensor:
    gains = [
        [a.logp.sum() - b.logp.sum() for a, b in zip(mine, theirs, strict=True)]
        for mine, theirs in ((p.alternate, r.alternate), (p.forget, r.forget))
    ]
    return torch.stack(
        [-2 / beta * logsigmoid(beta * (won - lost)) for won, lost in zip(*gains, strict=True)]
    ).mean()


def undial(p: Side, r: Side, beta: float) -> torch.Tensor:
    losses = []
    for a, b in zip(p.forget, r.forget, strict=True):
        target = (b.z - beta * torch.nn.functional.one_hot(b.y, b.z.shape[-1])).softmax(-1)
        losses.append(-(target * a.z.log_softmax(-1)).sum(-1))
    return torch.cat(losses).mean()


def ceu(p: Side, skipped: int) -> torch.Tensor:
    losses = []
    for a in p.forget:
        z = a.z.detach().clone()
        z[torch.arange(len(a.y)), a.y] = -torch.inf
        losses.append(-(z.softmax(-1) * a.z.log_softmax(-1)).sum(-1)[skipped:])
    return torch.cat(losses).mean()


def direction() -> torch.Tensor:
    u = torch.linspace(-1, 1, 96)
    return u / u.norm()


def rmu(p: Side, r: Side, c: float, adaptive: bool = False) -> torch.Tensor:
    def one(a: Row, b: Row) -> torch.Tensor:
        length = b.h.norm(dim=-1, keepdim=True) if adaptive else 1.0
        return (a.h - c * length * direction()).square().mean(-1).mean()

    return per_row(p.forget, r.forget, one)


def peak(p: Side) -> torch.Tensor:
    return flat(p.forget, lambda r: (r.z.amax(-1) - r.z.mean(-1)).square())


CASES: list[tuple[str, dict[str, Any], Callable[[Side, Side], torch.Tensor]]] = [
    ("GradAscent", {}, lambda p, r: -nll(p.forget)),
    ("GradAscent", {"alpha": 0.5}, lambda p, r: -nll(p.forget) + 0.5 * nll(p.retain)),
    (
        "GradDiff",
        {"loss_on": "all", "gamma": 0.7},
        lambda p, r: (
            0.7 * flat(p.forget, lambda a: a.all_logp) - flat(p.retain, lambda a: a.all_logp)
        ),
    ),
    (
        "GradDiff",
        {"retain_loss_type": "EMBED_DIFF", "retain_layer": LAYER, "alpha": 3.0},
        lambda p, r: -nll(p.forget) + 3 * embed_diff(p.retain, r.retain),
    ),
    (
        "NPO",
        {"beta": 0.37, "retain_loss_type": "KL", "alpha": 2.0},
        lambda p, r: npo(p, r, 0.37) + 2 * kl(p.retain, r.retain),
    ),
    (
        "NPO",
        {"beta": 0.05, "retain_loss_type": "EMBED_DIFF", "retain_layer": LAYER},
        lambda p, r: npo(p, r, 0.05) + embed_diff(p.retain, r.retain),
    ),
    ("SimNPO", {}, lambda p, r: 0.125 * simnpo(p, 4.5, 0.0) + nll(p.retain)),
    (
        "SimNPO",
        {
            "beta": 2.5,
            "delta": 0.3,
            "gamma": 1.0,
            "retain_loss_type": "EMBED_DIFF",
            "retain_layer": LAYER,
        },
        lambda p, r: simnpo(p, 2.5, 0.3) + embed_diff(p.retain, r.retain),
    ),
    (
        "DPO",
        {"beta": 0.2, "gamma": 0.5, "retain_loss_type": "KL"},
        lambda p, r: 0.5 * dpo(p, r, 0.2) + kl(p.retain, r.retain),
    ),
    ("AltPO", {"alpha": 0}, lambda p, r: dpo(p, r, 0.1)),
    ("IdkSFT", {"gamma": 0.5, "alpha": 0.5}, lambda p, r: (nll(p.alternate) + nll(p.retain)) / 2),
    (
        "RMU",
        {"module_regex": LAYER, "steering_coeff": 6.5, "alpha": 12.0},
        lambda p, r: rmu(p, r, 6.5) + 12 * embed_diff(p.retain, r.retain),
    ),
    (
        "RMU",
        {"module_regex": LAYER, "adaptive": True, "beta": 5.0, "retain_loss_type": "NLL"},
        lambda p, r: rmu(p, r, 5.0, adaptive=True) + nll(p.retain),
    ),
    (
        "RMU",
        {"module_regex": LAYER, "adaptive": True, "steering_coeff": 3.0, "alpha": 0},
        lambda p, r: rmu(p, r, 3.0, adaptive=True),
    ),
    ("UNDIAL", {}, lambda p, r: undial(p, r, 10.0)),
    ("UNDIAL", {"beta": 3.0, "alpha": 2.0}, lambda p, r: undial(p, r, 3.0) + 2 * nll(p.retain)),
    ("CEU", {}, lambda p, r: ceu(p, 1)),
    (
        "CEU",
        {"ignore_first_n_answer_tokens": 3, "alpha": 0.5},
        lambda p, r: ceu(p, 3) + 0.5 * nll(p.retain),
    ),
    ("WGA", {"beta": 2.0}, lambda p, r: flat(p.forget, lambda a: a.p**2 * a.logp) + nll(p.retain)),
    (
        "SatImp",
        {"beta1": 3.0, "beta2": 0.5, "gamma": 1.0, "retain_loss_type": "KL"},
        lambda p, r: (
            flat(p.forget, lambda a: a.p**3 * (1 - a.p) ** 0.5 * a.logp) + kl(p.retain, r.retain)
        ),
    ),
    (
        "PDU",
        {"retain_loss_eps": 0.3, "alpha": 50.0, "gamma": 0.5},
        lambda p, r: 0.5 * peak(p) + 50 * (nll(p.retain) - 0.3),
    ),
]


def said(
    path: Path, template: Template, rows: dict[str, list[dict]], grad: bool
) -> tuple[Any, Side]:
    """The model and what its own forward says of each row, alone and without padding."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train(grad)
    sides = {}
    for stream, given in rows.items():
        found = []
        for row in given:
            encoded = template.encode(
                row["question"], row["alternate"] if stream == "alternate" else row["answer"]
            )
            ids = torch.tensor(encoded.input_ids)
            with torch.set_grad_enabled(grad):
                made = model(ids[None], output_hidden_states=True)
            start = len(encoded.prompt)
            z, h = made.logits[0], made.hidden_states[3][0]
            found.append(Row(z[start - 1 : -1], ids[start:], h[start:], z, ids))
        sides[stream] = found
    return model, Side(**sides)


@pytest.mark.parametrize(
    ("name", "args", "formula"),
    CASES,
    ids=[f"{name}-{json.dumps(args)}" for name, args, _ in CASES],
)
def test_loss_and_gradient_are_those_of_the_formula(
    name: str, args: dict, formula: Any, kit: Path
) -> None:
    """On rows 5 to 9, which differ in length, and without compat."""
    rows = {
        stream: read_rows(kit / "data" / f"{file}.jsonl")[5:10]
        for stream, file in (
            ("forget", "forget10"),
            ("alternate", "forget10_idk"),
            ("retain", "retain90"),
        )
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(kit / "policy")
    template = Template(tokenizer, TemplateArgs(kind="qa"))
    model, policy = said(kit / "policy", template, rows, grad=True)
    _, reference = said(kit / "reference", template, rows, grad=False)
    expected = formula(policy, reference)
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    loss, found = method_loss(
        name,
        args,
        kit / "policy",
        kit / "reference",
        rows["forget"],
        rows["retain"],
        {"kind": "qa"},
        alternate=rows["alternate"] if name in ("DPO", "AltPO", "IdkSFT") else None,
        control_vector=direction() if name == "RMU" else None,
    )
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    assert found == pytest.approx(float(norm), rel=1e-4)
