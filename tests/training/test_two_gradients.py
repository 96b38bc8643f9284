"""Runs with surgery and perturbations: what they log and learn, what they cost, what is refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.doors import train
from tests.recovery.conftest import corpus  # noqa: F401
from unteach import run_dir
from unteach.config.compose import compose
from unteach.errors import UserError
from unteach.training.gradient_vectors import GradientVectors

MLP = r"model\.layers\.1\.mlp"
LORA = ("model.peft_args.r=4", "model.peft_args.target_modules=all-linear")


def words(kit: Path, rows: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}",
        "model.model_args.dtype=float32",
        f"tofu_path={rows}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "eval=null",
        "trainer=NPO",
        "trainer.args.logging_steps=1",
        "trainer.args.max_steps=2",
        "trainer.args.learning_rate=1e-3",
        "trainer.args.lr_scheduler_type=constant",
        "trainer.args.warmup_epochs=0",
        "trainer.args.optim=sgd",
        "trainer.args.weight_decay=0",
        "trainer.args.per_device_train_batch_size=2",
        "trainer.args.gradient_accumulation_steps=2",
        *extra,
    ]


@pytest.fixture
def run(kit: Path, corpus: Path, tmp_path: Path) -> Any:
    """Trains with these words; gives the logged lines and the final weights."""

    def carry_out(*extra: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        train(*words(kit, corpus, folder, *extra), config_name="unlearn")
        lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
        (file,) = (folder / run_dir.FINAL).glob("*.safetensors")
        return [line for line in lines if "grad_norm" in line], load_file(file)

    return carry_out


@pytest.mark.parametrize(
    "wrapper",
    [
        "trainer.perturb={name: SAM, rho: 0}",
        "trainer.perturb={name: RandomSmoothing, sigma: 0}",
        rf"trainer.perturb={{name: LAT, epsilon: 0, steps: 2, module: '{MLP}'}}",
        "trainer.surgery={name: gru, cos_clip: 0, ce_coeff: 1}",
    ],
)
def test_a_wrapper_that_does_nothing_leaves_a_run_as_it_is(run: Any, wrapper: str) -> None:
    plain, plain_weights = run()
    lines, weights = run(wrapper)
    for one, other in zip(plain, lines, strict=True):
        assert one.keys() == other.keys()
        assert other == pytest.approx(one, rel=1e-4)
    for name, tensor in plain_weights.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("adapter", [(), LORA], ids=["whole", "LoRA"])
@pytest.mark.parametrize(
    "wrapper",
    [
        ("trainer.surgery=pcgrad",),
        ("trainer.surgery={name: gru, ce_coeff: 1.0}", "trainer.perturb={name: SAM, rho: 0.5}"),
        ("trainer.perturb={name: RandomSmoothing, sigma: 0.02}",),
        (rf"trainer.perturb={{name: LAT, steps: 2, module: '{MLP}'}}",),
    ],
    ids=["pcgrad", "gru and SAM", "RandomSmoothing", "LAT"],
)
def test_the_log_is_that_of_a_plain_step_and_the_gradient_another(
    run: Any, wrapper: tuple[str, ...], adapter: tuple[str, ...]
) -> None:
    """Also with an adapter, which is all that trains, and without which the reference is made."""
    kl = "trainer.method_args.retain_loss_type=KL"
    # The first step of an adapter has no gradient in one of its factors, and conflicts with none.
    more = (kl, "trainer.args.learning_rate=0.1", "trainer.args.max_steps=3", *adapter)
    plain, plain_weights = run(*more)
    lines, weights = run(*more, *wrapper)
    first, other = plain[0], lines[0]
    assert {"forget_loss", "retain_loss"} < first.keys() == other.keys()
    for name in ("loss", "forget_loss", "retain_loss"):
        assert other[name] == pytest.approx(first[name], rel=1e-5)
    differences = [float((weights[name] - t).abs().max()) for name, t in plain_weights.items()]
    assert max(differences) > 1e-6


def count_passes(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts backward passes, copies of gradients and copies of weights."""
    counted: Counter = Counter()
    backward = torch.Tensor.backward

    def count_backward(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        counted["backward passes"] += 1
        backward(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", count_backward)
    for method in ("take", "copy_weights"):
        original = getattr(GradientVectors, method)

        def count_copy(vectors: Any, original: Any = original, method: str = method) -> Any:
            counted[method] += 1
            return original(vectors)

        monkeypatch.setattr(GradientVectors, method, count_copy)
    return counted


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        ((), {"backward passes": 2}),
        (("trainer.surgery=pcgrad",), {"backward passes": 4, "take": 1}),
        (("trainer.perturb=SAM",), {"backward passes": 6, "take": 1, "copy_weights": 1}),
        (
            ("trainer.perturb={name: RandomSmoothing, n: 3}",),
            {"backward passes": 8, "copy_weights": 1},
        ),
        (
            ("trainer.perturb=SAM", "trainer.surgery=blur"),
            {"backward passes": 6, "take": 2, "copy_weights": 1},
        ),
        ((rf"trainer.perturb={{name: LAT, steps: 2, module: '{MLP}'}}",), {"backward passes": 4}),
    ],
    ids=str,
)
def test_passes_and_copies_of_a_step(
    run: Any, monkeypatch: pytest.MonkeyPatch, wrapper: Any, expected: dict[str, int]
) -> None:
    """Of one step of two micro-batches. Each pass of a side is over that side's rows alone."""
    counted = count_passes(monkeypatch)
    run("trainer.args.max_steps=1", *wrapper)
    assert dict(counted) == expected


def test_rows_through_a_layer_are_as_many_as_without_surgery(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    counted = [0]
    forward = LlamaDecoderLayer.forward

    def count_rows(layer: Any, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            counted[-1] += len(hidden)
        return forward(layer, hidden, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", count_rows)
    run()
    counted.append(0)
    run("trainer.surgery=pcgrad")
    assert counted[0] == counted[1] > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["trainer.surgery=pcgradd"], r"trainer\.surgery: there is no surgery .* mean pcgrad"),
        (["trainer.perturb=sam"], r"trainer\.perturb: .* mean SAM"),
        (["trainer.surgery=[pcgrad]"], r"trainer\.surgery: must be a name or a mapping"),
        (["trainer.surgery.per=global"], r"trainer\.surgery\.name: is required"),
        (["trainer.surgery={name: pcgrad, pr: global}"], r"trainer\.surgery\.pr: no such key.*per"),
        (["trainer.perturb={name: SAM, rho: -1}"], r"trainer\.perturb: rho must not be negative"),
        (["trainer.surgery=pcgrad", "trainer=GradAscent"], "GradAscent has no retain term"),
        (["trainer.surgery=pcgrad", "trainer.method_args.gamma=0"], "gamma=0 leaves no forget"),
        (["trainer.perturb={name: LAT, direction: away}"], "needs the stream alternate"),
        (["trainer.surgery=pcgrad", "trainer.args.fp16=true"], "in float16 gradients are scaled"),
        (["trainer.perturb=SAM", "model.model_args.dtype=float16"], "in float16 gradients"),
        (["trainer.surgery=blur", "launch=zero2"], "launch=zero2: DeepSpeed owns the gradients"),
        (["trainer.perturb=SAM", "trainer.args.ddp_static_graph=true"], "ddp_static_graph"),
        (
            [
                "trainer.perturb=LAT",
                "trainer.args.gradient_checkpointing=true",
                "trainer.args.gradient_checkpointing_kwargs={use_reentrant: true}",
            ],
            "use_reentrant=true gives gradients in weights alone",
        ),
        (["trainer.surgery=gru", "trainer.args.optim=lomo"], "optim=lomo steps within"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(
    wrong: list[str], message: str, kit: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        compose("unlearn", [*words(kit, kit / "data", tmp_path / "run"), *wrong])


def test_a_method_that_teaches_has_no_two_sides(kit: Path, tmp_path: Path) -> None:
    command = words(kit, kit / "data", tmp_path / "run", "trainer.surgery=pcgrad")
    command[0] = "experiment=finetune/tofu/default"
    command.remove("trainer=NPO")
    with pytest.raises(UserError, match="does not say which of its terms forget"):
        compose("train", command)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (r"model\.layers\.9\.mlp", r"matches no layer .*layers.0 to layers.3 for short"),
        (r"model\.layers\.\d\.mlp", "means 4 modules of this model"),
        ("embedding", "a layer or inside a layer"),
        ("last", "a layer or inside a layer"),
        ("(", "is no regular expression"),
    ],
)
def test_a_module_that_the_model_lacks_is_named(run: Any, module: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(f"trainer.perturb={{name: LAT, module: '{module}'}}")


def test_an_attack_above_where_the_passes_end_is_refused(run: Any) -> None:
    with pytest.raises(UserError, match="forget passes end below that module"):
        run(
            "trainer=RMU",
            r"trainer.method_args.module_regex=model\.layers\.0",
            rf"trainer.perturb={{name: LAT, steps: 1, module: '{MLP}'}}",
        )
