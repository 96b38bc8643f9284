"""What a step costs, counted: rows through each layer, positions through the head, parameters with
a gradient, and the bytes of whatever reference is held."""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows
from tests.doors import train
from unteach import testing
from unteach.config.schema import ModelConfig
from unteach.models import loading, reference
from unteach.testing.examples import build_examples
from unteach.training import build_reference
from unteach.training.step import setup_method

ROWS = 4
LAYERS = 4
RMU = {"module_regex": r"model\.layers\.1"}


def counting(model: Any, seen: Counter, who: str) -> None:
    """Counts calls and rows of each layer, and positions that go through the head."""

    def layer(index: int, _: Any, given: Any, __: Any) -> None:
        seen[f"{who} calls"] += 1
        seen[f"{who} rows of layer {index}"] += len(given[0])

    def head(_: Any, given: Any, __: Any) -> None:
        seen[f"{who} head"] += len(given[0])

    for index, module in enumerate(model.model.layers):
        module.register_forward_hook(functools.partial(layer, index))
    model.get_output_embeddings().register_forward_hook(head)


def cost(kit: Path, name: str, args: dict[str, Any]) -> tuple[Counter, set[str], dict[str, int]]:
    """What one micro-batch of 4 rows a stream counts, the parameters with a gradient, and tokens a
    stream."""
    files = {"forget": "forget10_idk", "alternate": "forget10_idk"}
    files |= {"retain": "retain90", "retain_alternate": "retain90"}
    loaded = loading.load(
        ModelConfig({"pretrained_model_name_or_path": str(kit / "policy")}), training=True
    )
    frozen = loading.load_frozen(
        ModelConfig({"pretrained_model_name_or_path": str(kit / "reference")})
    )
    method = testing.build_method(name, args)
    rows = {
        stream: build_examples(
            loaded.template,
            read_rows(kit / "data" / f"{files[stream]}.jsonl")[:ROWS],
            False,
            stream,
        )
        for stream in method.streams()
    }
    setup_method(loaded.model, method, 0, {}, loaded.template)
    seen: Counter = Counter()
    counting(loaded.model, seen, "policy")
    if reference.needs_copy(method.reference()):
        counting(frozen, seen, "reference")
    testing.step_gradient(loaded, method, rows, frozen, num_micro_batches=1)
    tokens = {
        stream: sum(label != -100 for e in examples for label in e.get("alternate", e)["labels"])
        for stream, examples in rows.items()
    }
    return seen, {n for n, p in loaded.model.named_parameters() if p.grad is not None}, tokens


@pytest.mark.parametrize(
    ("name", "args", "streams"),
    [
        ("GradAscent", {}, ["forget"]),
        ("NPO", {"alpha": 0}, ["forget"]),
        ("CEU", {}, ["forget"]),
        ("GradDiff", {}, ["forget", "retain"]),
        ("NPO", {}, ["forget", "retain"]),
        ("SimNPO", {}, ["forget", "retain"]),
        ("WGA", {}, ["forget", "retain"]),
        ("SatImp", {}, ["forget", "retain"]),
        ("PDU", {"retain_loss_eps": 0.3}, ["forget", "retain"]),
        ("IdkSFT", {}, ["alternate", "retain"]),
        ("DPO", {}, ["forget", "alternate", "retain"]),
        ("AltPO", {}, ["forget", "alternate", "retain"]),
        ("TNPO", {}, ["forget"]),
        ("Unilogit", {}, ["forget"]),
        ("FLAT", {}, ["forget", "alternate"]),
        ("IdkAP", {}, ["alternate", "retain", "retain_alternate"]),
    ],
    ids=str,
)
def test_one_pass_over_each_stream_and_no_reference_in_memory(
    name: str, args: dict, streams: list, kit: Path
) -> None:
    seen, trained, tokens = cost(kit, name, args)
    assert seen["policy calls"] == LAYERS
    assert all(seen[f"policy rows of layer {i}"] == ROWS * len(streams) for i in range(LAYERS))
    assert seen["policy head"] == sum(tokens[stream] for stream in streams)
    assert not any(key.startswith("reference") for key in seen)
    assert list(tokens) == streams
    assert "model.norm.weight" in trained


@pytest.mark.parametrize(
    ("name", "args", "stream"),
    [
        ("GradDiff", {"retain_loss_type": "KL"}, "retain"),
        ("UNDIAL", {}, "forget"),
        ("JensUn", {}, "retain"),
        ("JensUnPP", {"balance": False}, "retain"),
        ("LLMU", {}, "retain"),
    ],
    ids=str,
)
def test_logits_of_a_reference_cost_one_pass_of_it_over_that_stream(
    name: str, args: dict, stream: str, kit: Path
) -> None:
    seen, _, tokens = cost(kit, name, args)
    assert seen["policy calls"] == seen["reference calls"] == LAYERS
    assert seen["policy rows of layer 3"] == ROWS * len(tokens)
    assert seen["reference rows of layer 3"] == ROWS
    assert seen["reference head"] == tokens[stream]
    assert seen["policy head"] == sum(tokens.values())


def test_balance_costs_the_passes_once_more(kit: Path) -> None:
    plain, _, _ = cost(kit, "JensUnPP", {"balance": False})
    balanced, _, _ = cost(kit, "JensUnPP", {})
    assert balanced == {counted: 2 * times for counted, times in plain.items()}


def test_rmu_runs_and_trains_nothing_above_its_layer(kit: Path) -> None:
    seen, trained, _ = cost(kit, "RMU", RMU)
    assert seen == {
        "policy calls": 2,
        "policy rows of layer 0": 2 * ROWS,
        "policy rows of layer 1": 2 * ROWS,
        "reference calls": 2,
        "reference rows of layer 0": ROWS,
        "reference rows of layer 1": ROWS,
    }
    assert {name.split(".")[2] for name in trained if "layers" in name} == {"0", "1"}
    assert "model.norm.weight" not in trained
    assert "model.embed_tokens.weight" in trained


def test_circuit_breakers_share_a_pass_up_to_the_highest_layer(kit: Path) -> None:
    """Forget and retain rows together, the same of the reference; no layer above, and no head."""
    args = {"target_layers": ["layers.0", "layers.2"]}
    seen, trained, _ = cost(kit, "CircuitBreaker", args)
    expected = {}
    for who in ("policy", "reference"):
        expected[f"{who} calls"] = 3
        for layer in range(3):
            expected[f"{who} rows of layer {layer}"] = 2 * ROWS
    assert seen == expected
    assert {name.split(".")[2] for name in trained if "layers" in name} == {"0", "1", "2"}


def test_rep_noise_reads_every_layer_of_the_forget_rows(kit: Path) -> None:
    """One pass over both answers; the head at all real tokens, of forget rows behind the embedding,
    each layer and the final norm."""
    seen, _, _ = cost(kit, "RepNoise", {})
    assert seen["policy calls"] == LAYERS
    assert seen["policy rows of layer 3"] == 2 * ROWS
    assert not any(key.startswith("reference") for key in seen)


def test_rmu_without_retain_term_needs_no_reference(kit: Path) -> None:
    seen, _, _ = cost(kit, "RMU", {**RMU, "alpha": 0})
    assert seen == {
        "policy calls": 2,
        "policy rows of layer 0": ROWS,
        "policy rows of layer 1": ROWS,
    }


def test_rmu_trains_only_the_parameters_it_names(kit: Path) -> None:
    chosen = r"model\.layers\.[01]\.mlp\.down_proj\.weight"
    _, trained, _ = cost(kit, "RMU", {**RMU, "trainable_params_regex": [chosen]})
    assert trained == {"model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"}


def test_a_retain_term_at_a_layer_adds_no_pass_to_the_head(kit: Path) -> None:
    seen, _, tokens = cost(
        kit, "SimNPO", {"retain_loss_type": "EMBED_DIFF", "retain_layer": r"model\.layers\.0"}
    )
    assert seen["policy rows of layer 0"] == 2 * ROWS
    assert seen["policy rows of layer 1"] == seen["policy rows of layer 3"] == ROWS
    assert seen["reference calls"] == 1
    assert seen["policy head"] == tokens["forget"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [("NPO", None), ("DPO", None), ("UNDIAL", 4), ("RMU", 2), ("CircuitBreaker", 2)],
)
def test_the_reference_that_a_run_holds(
    name: str, kept: int | None, kit: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Nothing; a whole copy; a copy up to the layer, without the head."""
    held = []

    class Watched(reference.Reference):
        def __init__(self, needed: Any, tables: Any = None, frozen: Any = None):
            held.append(frozen)
            super().__init__(needed, tables, frozen)

    monkeypatch.setattr(build_reference, "Reference", Watched)
    words = [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        "model.model_args.dtype=float32",
        f"tofu_path={kit / 'data'}",
        "task_name=t",
        f"paths.output_dir={tmp_path}",
        "eval=null",
        f"trainer={name}",
        "trainer.args.max_steps=1",
        "data.forget=TOFU_QA_forget_idk",
    ]
    train(
        *words,
        *([r"trainer.method_args.module_regex=model\.layers\.1"] if name == "RMU" else []),
        config_name="unlearn",
    )
    (frozen,) = held
    if kept is None:
        assert frozen is None
        return
    whole = loading.load_frozen(ModelConfig({"pretrained_model_name_or_path": str(kit / "policy")}))
    parts = [whole.model.embed_tokens, *whole.model.layers[:kept], whole.model.norm]
    assert _bytes(frozen) == sum(map(_bytes, parts))
    assert not any(p.requires_grad for p in frozen.parameters())


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
