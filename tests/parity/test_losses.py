"""Loss and gradient norm of every method against values that another system computed."""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import read_rows
from unteach.testing import method_loss

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "parity" / "losses.json"
CASES = json.loads(GOLDENS.read_text())["goldens"] if GOLDENS.exists() else []


@pytest.mark.skipif(not CASES, reason="the reference values are not here")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['method']}-{case['batch']}")
def test_loss_and_gradient_norm_are_those_of_the_published_code(
    case: dict, kit: Path, shared: Path
) -> None:
    template = json.loads((shared / "parity" / "losses.json").read_text())["template"]
    one = case["batch"] == "one_row_all_tokens"
    name = case["method"].split("-")[0]
    forget, retain, idk = (
        read_rows(kit / "data" / f"{file}.jsonl")[: 1 if one else 4]
        for file in ("forget10", "retain90", "forget10_idk")
    )
    loss, norm = method_loss(
        name,
        case["args"],
        kit / "policy",
        kit / "reference",
        forget,
        retain,
        template,
        all_tokens=one,
        alternate=idk if name == "DPO" else None,
        compat="openunlearning",
        control_vector=torch.linspace(-1, 1, 96) if name == "RMU" else None,
    )
    assert loss == pytest.approx(case["loss"], rel=1e-4)
    assert norm == pytest.approx(case["grad_norm"], rel=1e-4)


def test_the_quirk_of_kl_is_off_by_default(kit: Path) -> None:
    rows = {
        name: read_rows(kit / "data" / f"{name}.jsonl")[:4] for name in ("forget10", "retain90")
    }
    args = {"retain_loss_type": "KL"}

    def loss(compat: str | None) -> float:
        return method_loss(
            "GradDiff", args, kit / "policy", kit / "reference", *rows.values(), {}, compat=compat
        )[0]

    assert abs(loss(None) - loss("openunlearning")) > 1e-2
