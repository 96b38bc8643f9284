"""Loss and gradient norm of every method against values that another system computed."""

import json
from pathlib import Path

import pytest

from tests.conftest import read_rows
from unteach import registry
from unteach.testing import method_loss

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "parity" / "losses.json"
CASES = json.loads(GOLDENS.read_text())["goldens"] if GOLDENS.exists() else []
OURS = [case for case in CASES if case["method"].split("-")[0] in registry.method]


@pytest.mark.skipif(not CASES, reason="the reference values are not here")
@pytest.mark.parametrize("case", OURS, ids=lambda case: f"{case['method']}-{case['batch']}")
def test_loss_and_gradient_norm_are_those_of_the_published_code(case: dict, kit: Path, shared: Path) -> None:
    template = json.loads((shared / "parity" / "losses.json").read_text())["template"]
    one = case["batch"] == "one_row_all_tokens"
    rows = {name: read_rows(kit / "data" / f"{name}.jsonl")[: 1 if one else 4] for name in ("forget10", "retain90")}
    loss, norm = method_loss(
        case["method"].split("-")[0], case["args"], kit / "policy", kit / "reference",
        rows["forget10"], rows["retain90"], template, all_tokens=one, compat="openunlearning",
    )  # fmt: skip
    assert loss == pytest.approx(case["loss"], rel=1e-4)
    assert norm == pytest.approx(case["grad_norm"], rel=1e-4)


def test_the_quirk_of_kl_is_off_by_default(kit: Path) -> None:
    rows = {name: read_rows(kit / "data" / f"{name}.jsonl")[:4] for name in ("forget10", "retain90")}
    args = {"retain_loss_type": "KL"}

    def loss(compat: str | None) -> float:
        return method_loss("GradDiff", args, kit / "policy", kit / "reference", *rows.values(), {}, compat=compat)[0]

    assert abs(loss(None) - loss("openunlearning")) > 1e-2
