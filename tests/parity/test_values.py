"""The comparison with a file of reference values: it finds all that is offered equal, names the
rest, and can fail."""

import json
from pathlib import Path
from typing import Any

import pytest
import values

OFFERED = (
    *("ME", "IdkAP", "IHL", "TNPO", "WTNPO", "FLAT", "JensUn", "JensUnPP", "LLMU", "Unilogit"),
    *("CircuitBreaker", "CircuitBreaker-MUDMAN", "RepNoise", "WHP", "ULD"),
)
VECTORS = {
    "inputs": {"forget": [[1.0, -2.0]], "retain": [[1.0, 1.0]], "gamma": 1.0, "alpha": 0.5},
    "results": {"sum": [[1.5, -1.5]], "sago": [[1.0, 0.5]], "unheard_of": [[0.0, 0.0]]},
}


def write(folder: Path, content: dict[str, Any]) -> Path:
    file = folder / "values.json"
    file.write_text(json.dumps(content))
    return file


def test_all_that_is_offered_equals_the_reference_values(
    shared: Path, kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = values.main([str(shared / "parity" / "losses_2.json"), str(kit)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines[-1]
    for method in OFFERED:
        assert any(f": {method} " in line and line.endswith("equal") for line in lines), method
    for name in (
        "repselect_collapse soft_q2 both",
        "repselect hard kl",
        "task_vector forget_ce",
        "lunar direction_norm",
        "lunar losses_full_batch_adamw",
        "lunar exact loss",
        "fila BA",
        "fila kit BA_norm",
    ):
        assert any(f"edits: {name}: " in line and line.endswith("equal") for line in lines), name
    for block in ("surgery", "perturb", "latent", "dual_optim"):
        assert any(line.startswith(f"{block}: ") and line.endswith("equal") for line in lines), (
            block
        )
    missing = [line for line in lines if line.startswith("not offered: ")]
    assert any("Reverse-KL" in line for line in missing)
    num_compared = len(lines) - len(missing) - 1
    assert lines[-1].startswith(f"{num_compared} of {num_compared} values equal, worst difference")


def test_what_an_audit_measures_equals_the_reference_values(
    shared: Path, kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = values.main([str(shared / "parity" / "audit_values.json"), str(kit)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines[-1]
    for name in (
        "uds: corrected published_prompt policy uds",
        "uds: corrected kit_prompt policy s2",
        "uds: published kit_prompt policy s1",
        "uds: published published_prompt reference uds",
        "logit_lens: answers policy",
        "logit_lens: values retain",
        "logit_lens: score policy",
        "leak_at_k: n=200 c=3 k=64",
        "quantise: policy rtn4 probabilities",
        "quantise: reference rtn3 error",
    ):
        assert any(line.startswith(f"{name}: ") and line.endswith("equal") for line in lines), name
    missing = [line for line in lines if line.startswith("not offered: ")]
    assert any("n=8 c=3 k=16" in line for line in missing)
    for block in ("kl_texts", "prompts", "relearn"):
        assert any(f": {block}: the whole block" in line for line in missing), block


def test_a_value_that_differs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, {"rows": [0, 4], "surgery": {"vectors": VECTORS}})
    assert values.main([str(file), str(tmp_path)]) == 0
    assert "not offered: surgery: vectors unheard_of" in capsys.readouterr().out
    VECTORS["results"]["sum"][0][1] = -1.51  # type: ignore[index]
    file = write(tmp_path, {"surgery": {"vectors": VECTORS}, "unheard_of": []})
    assert values.main([str(file), str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("surgery: vectors sum: ") and lines[0].endswith("DIFFERS")
    assert lines[-2].startswith("not offered: unheard_of: the whole block")
    assert lines[-1] == ("1 of 2 values equal, worst difference 4.7e-03 (surgery: vectors sum)")


def test_two_paths_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert values.main([]) == 2
    assert "FILE KIT" in capsys.readouterr().err
