"""LoRA: only the adapter trains, the base is the reference, and an adapter is put back on its own
base alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.doors import evaluate, train
from unteach import run_dir
from unteach.config.schema import ModelConfig
from unteach.errors import UserError
from unteach.models import adapters
from unteach.models.hub import PATH
from unteach.models.loading import load as load_config
from unteach.verbs.load import load

LORA = "model.peft_args={r: 4, lora_alpha: 8, target_modules: 'q_proj,v_proj'}"


def words(start: Path, kit: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={start}",
        f"tofu_path={kit / 'data'}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer=NPO",
        "trainer.args.max_steps=3",
        "trainer.args.per_device_train_batch_size=4",
        "trainer.args.logging_steps=1",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.learning_rate=1e-3",
        "trainer.args.warmup_epochs=0",
        "eval=null",
        *extra,
    ]


@pytest.fixture(scope="module")
def base(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the kit's policy, to be moved and spoilt."""
    return Path(shutil.copytree(kit / "policy", tmp_path_factory.mktemp("models") / "base"))


@pytest.fixture(scope="module")
def taught(base: Path, kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught") / "run"
    train(*words(base, kit, folder, LORA), config_name="unlearn")
    return folder


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / run_dir.METRICS).read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


def test_only_the_adapter_trains_and_is_saved(taught: Path, base: Path) -> None:
    files = {file.name for file in (taught / run_dir.FINAL).iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    loaded = load(str(taught))
    trained = {n for n, p in loaded.model.named_parameters() if "lora_B" in n and p.abs().sum() > 0}
    assert trained and all("q_proj" in name or "v_proj" in name for name in trained)


def test_it_is_what_plain_peft_loads(taught: Path, base: Path) -> None:
    import peft
    import transformers

    plain = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base), taught / run_dir.FINAL
    )
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, load(str(taught)).model(ids).logits, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    ["RMU", *(pytest.param(name, marks=pytest.mark.long) for name in ("GradDiff", "UNDIAL"))],
)
def test_the_model_without_its_adapter_is_the_copy_of_what_it_was(
    method: str, base: Path, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unteach.config.schema import ModelConfig
    from unteach.models.loading import load_frozen

    retain = {"GradDiff": "KL", "UNDIAL": "NLL", "RMU": "EMBED_DIFF"}[method]
    extra = [
        LORA,
        f"trainer={method}",
        f"trainer.method_args.retain_loss_type={retain}",
        "trainer.args.learning_rate=1e-2",
    ]
    if method == "RMU":
        extra += [
            r"trainer.method_args.module_regex='model\.layers\.2'",
            "trainer.method_args.steering_coeff=20",
        ]
    train(*words(base, kit, tmp_path / "without", *extra), config_name="unlearn")
    copied = ModelConfig({"pretrained_model_name_or_path": str(base)})
    monkeypatch.setattr(adapters, "BasePolicy", lambda model, adapter: load_frozen(copied))
    train(*words(base, kit, tmp_path / "copy", *extra), config_name="unlearn")
    lines = [logged(tmp_path / name) for name in ("without", "copy")]
    for one, other in zip(*lines, strict=True):
        for name in (
            "loss",
            "grad_norm",
            "forget_loss",
            *(["retain_loss"] if "retain_loss" in one else []),
        ):
            assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-7), name
    if method != "UNDIAL":
        assert lines[0][0]["retain_loss"] == pytest.approx(0, abs=1e-6)
        assert lines[0][2]["retain_loss"] > 1e-5, "the adapter has moved, and the reference has not"


def test_training_goes_on_from_an_adapter_and_compares_with_it(
    taught: Path, kit: Path, tmp_path: Path
) -> None:
    train(
        *words(taught, kit, tmp_path / "run", "trainer.method_args.retain_loss_type=KL"),
        config_name="unlearn",
    )
    lines = logged(tmp_path / "run")
    assert lines[0]["retain_loss"] == pytest.approx(0, abs=1e-6), (
        "the adapter that it began with is the reference"
    )
    assert lines[0]["forget_loss"] == pytest.approx(2 / 0.1 * 0.6931472, rel=1e-5)
    assert lines[2]["retain_loss"] > 1e-6
    files = {file.name for file in (tmp_path / "run" / run_dir.FINAL).iterdir()}
    assert "first" not in files and "adapter_model.safetensors" in files


@pytest.mark.parametrize("start", ["fresh", pytest.param("saved", marks=pytest.mark.long)])
def test_an_adapter_resumes_exactly(
    start: str, taught: Path, base: Path, kit: Path, tmp_path: Path
) -> None:
    def command(folder: str, steps: int) -> list[str]:
        extra = [LORA] if start == "fresh" else []
        return words(
            base if start == "fresh" else taught,
            kit,
            tmp_path / folder,
            *extra,
            f"trainer.args.max_steps={steps}",
            "trainer.args.save_strategy=steps",
            "trainer.args.save_steps=2",
            "trainer.args.keep_checkpoints=true",
            "trainer.args.lr_scheduler_type=constant",
            "trainer.method_args.retain_loss_type=KL",
        )

    train(*command("whole", 5), config_name="unlearn")
    train(*command("parts", 5), config_name="unlearn")
    for gone in (run_dir.DONE, run_dir.FINAL):
        path = tmp_path / "parts" / gone
        path.unlink() if path.is_file() else shutil.rmtree(path)
    train(*command("parts", 5), config_name="unlearn")
    assert json.loads((tmp_path / "parts" / run_dir.MANIFEST).read_text())["resumed_at"] > 0
    weights = [
        (tmp_path / f / run_dir.FINAL / "adapter_model.safetensors").read_bytes()
        for f in ("whole", "parts")
    ]
    assert weights[0] == weights[1]


@pytest.mark.long
def test_gradient_checkpointing_gives_the_same_steps(base: Path, kit: Path, tmp_path: Path) -> None:
    for name in ("true", "false"):
        extra = (
            LORA,
            f"trainer.args.gradient_checkpointing={name}",
            "trainer.method_args.retain_loss_type=KL",
        )
        train(*words(base, kit, tmp_path / name, *extra), config_name="unlearn")
    for one, other in zip(logged(tmp_path / "true"), logged(tmp_path / "false"), strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_it_refuses_another_base(taught: Path, base: Path, kit: Path) -> None:
    """The base's folder holds other weights now; or it was moved, and is named."""
    moved = base.with_name("moved")
    base.rename(moved)
    try:
        with pytest.raises(UserError, match="no such"):
            load(str(taught))
        shutil.copytree(kit / "retain", base)
        with pytest.raises(UserError, match=r"trained on other weights.*model\.base_path"):
            load(str(taught))
    finally:
        shutil.rmtree(base, ignore_errors=True)
        moved.rename(base)
    load(str(taught))


def test_an_adapter_is_evaluated_like_a_model(taught: Path, kit: Path, tmp_path: Path) -> None:
    evaluate(
        "experiment=eval/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={taught}",
        "task_name=t",
        f"tofu_path={kit / 'data'}",
        f"paths.output_dir={tmp_path / 'e'}",
        f"paths.cache_dir={tmp_path / 'c'}",
        "eval.tofu.metrics=[forget_Q_A_Prob]",
    )
    assert 0 < json.loads((tmp_path / "e" / "TOFU_SUMMARY.json").read_text())["forget_Q_A_Prob"] < 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("model.peft_args={rank: 4}", "LoraConfig has no such field"),
        ("model.peft_args={r: 4, target_modules: [nowhere]}", "down_proj, gate_proj, k_proj"),
        ("model.base_path=/tmp", "is for an adapter"),
    ],
)
def test_mistakes_are_named(given: str, said: str, base: Path, kit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        train(*words(base, kit, tmp_path / "run", given), config_name="unlearn")
    assert adapters.is_adapter(str(tmp_path)) is False


def test_a_list_a_comma_string_and_all_linear_are_targets(
    base: Path, kit: Path, tmp_path: Path
) -> None:
    def trained(targets: str) -> set[str]:
        folder = (
            tmp_path
            / targets.strip("[]'").replace(", ", "-")
            / ("list" if targets.startswith("[") else "text")
        )
        train(
            *words(
                base,
                kit,
                folder,
                f"model.peft_args={{r: 2, target_modules: {targets}}}",
                "trainer.args.max_steps=1",
            ),
            config_name="unlearn",
        )
        return {
            n.split(".")[-4] for n, _ in load(str(folder)).model.named_parameters() if "lora_A" in n
        }

    assert trained("[q_proj, v_proj]") == trained("'q_proj, v_proj'") == {"q_proj", "v_proj"}
    assert trained("all-linear") == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }


def test_qlora_trains_an_adapter_over_four_bit_weights(
    base: Path, kit: Path, tmp_path: Path
) -> None:
    """The reference passes, without gradient, leave the weights in a form through which gradients
    pass."""
    pytest.importorskip("bitsandbytes", reason='pip install ".[quant]"')
    quantised = (
        "model.model_args.quantization_config={load_in_4bit: true, bnb_4bit_quant_type: nf4}"
    )
    extra = (
        LORA,
        quantised,
        "trainer.method_args.retain_loss_type=KL",
        "trainer.args.gradient_checkpointing=true",
    )
    train(*words(base, kit, tmp_path / "run", *extra), config_name="unlearn")
    lines = logged(tmp_path / "run")
    assert lines[0]["retain_loss"] == pytest.approx(0, abs=1e-6)
    assert lines[2]["retain_loss"] > 0 and all(line["grad_norm"] > 0 for line in lines)


def test_four_bit_weights_without_an_adapter_are_refused(
    base: Path, kit: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason='pip install ".[quant]"')
    with pytest.raises(UserError, match=r"model\.peft_args"):
        train(
            *words(
                base,
                kit,
                tmp_path / "run",
                "model.model_args.quantization_config={load_in_4bit: true}",
            ),
            config_name="unlearn",
        )


def test_an_adapter_that_a_model_does_not_run_with_is_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT wraps routers of experts that are called otherwise than a linear layer."""

    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("'tuple' object has no attribute 'dtype'")

    monkeypatch.setattr("peft.tuners.lora.layer.Linear.forward", fail)
    args = {"r": 2, "target_modules": ["q_proj", "up_proj"]}
    message = (
        r"LlamaForCausalLM fails with an adapter on q_proj, up_proj \(AttributeError: "
        r"'tuple' object"
    )
    with pytest.raises(UserError, match=message):
        load_config(ModelConfig({PATH: str(tiny_folder)}, peft_args=args), training=True)
