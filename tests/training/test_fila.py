"""Runs whose adapter begins by FILA: they train what the paper trains, and what is saved is a LoRA
over the untouched weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.doors import export, train
from unteach import run_dir
from unteach.config.compose import compose
from unteach.errors import UserError
from unteach.verbs import check

RANK = 3
SCALING = 2.0
TARGETS = ["q_proj", "down_proj"]
PEFT = {"r": RANK, "lora_alpha": int(SCALING * RANK), "target_modules": TARGETS}
BEGIN = f"model.peft_args={{r: {RANK}, lora_alpha: 6, target_modules: [q_proj, down_proj], "
FILA = BEGIN + "init_lora_weights: fila}"
DECAY = ("trainer.args.weight_decay=10", "trainer.args.learning_rate=1e-3")


def words(kit: Path, folder: Path, *extra: str, model: Path | None = None) -> list[str]:
    return [
        "experiment=unlearn/tofu/default",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={model or kit / 'reference'}",
        f"tofu_path={kit / 'data'}",
        "task_name=t",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        "trainer.args.num_train_epochs=1",
        "trainer.args.per_device_train_batch_size=4",
        "trainer.args.gradient_accumulation_steps=1",
        "eval=null",
        *extra,
    ]


def run(kit: Path, folder: Path, *extra: str, trainer: str = "IHL", **more: Any) -> Path:
    train(*words(kit, folder, f"trainer={trainer}", *extra, **more), config_name="unlearn")
    return folder / run_dir.FINAL


@pytest.fixture(scope="module")
def final(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final model of a run of IHL, with weight decay."""
    return run(kit, tmp_path_factory.mktemp("fila") / "run", FILA, *DECAY)


def split(folder: Path) -> dict[str, tuple[torch.Tensor, ...]]:
    """Both halves of A and of B by layer: A', A, B', B."""
    halves = {}
    weights = load_file(folder / "adapter_model.safetensors")
    for name, a in weights.items():
        if ".lora_A." in name:
            b = weights[name.replace("lora_A", "lora_B")]
            layer = name.removeprefix("base_model.model.").partition(".lora_A")[0]
            halves[layer] = (a[:RANK], a[RANK:], b[:, :RANK], -b[:, RANK:])
    return halves


def test_it_trains_what_the_paper_trains(kit: Path, final: Path, tmp_path: Path) -> None:
    """The same run over W - s B A with a LoRA that begins at A and B comes to the same weights."""
    base = transformers.AutoModelForCausalLM.from_pretrained(kit / "reference")
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(kit / "reference")
    with torch.no_grad():
        for layer, (_, a, _, b) in split(final).items():
            base.get_parameter(f"{layer}.weight").sub_(SCALING * b @ a)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(**PEFT, task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    weights = {}
    for layer, (_, a, _, b) in split(final).items():
        prefix = f"base_model.model.{layer}.lora"
        weights |= {f"{prefix}_A.weight": a.clone(), f"{prefix}_B.weight": b.clone()}
    file = tmp_path / "start" / "adapter_model.safetensors"
    assert load_file(file).keys() == weights.keys()
    save_file(weights, file)
    theirs = run(kit, tmp_path / "theirs", *DECAY, model=tmp_path / "start")

    trained = load_file(theirs / "adapter_model.safetensors")
    moved = 0.0
    for layer, (new_a, a, new_b, b) in split(final).items():
        prefix = f"base_model.model.{layer}.lora"
        expected = trained[f"{prefix}_B.weight"] @ trained[f"{prefix}_A.weight"]
        start = before[f"{layer}.weight"]
        moved += float((new_b @ new_a - b @ a).norm())
        torch.testing.assert_close(
            start + SCALING * (new_b @ new_a - b @ a),
            start - SCALING * (b @ a) + SCALING * expected,
            rtol=1e-4,
            atol=1e-5,
        )
    assert moved > 0.01


def test_the_second_half_is_what_the_rows_say(kit: Path, final: Path) -> None:
    """B A of the second half, by the formula over gradients of transformers' own loss."""
    from unteach.methods.edit.fila import factorize

    model = transformers.AutoModelForCausalLM.from_pretrained(kit / "reference")
    tokenizer = transformers.AutoTokenizer.from_pretrained(kit / "reference")
    layer = "model.layers.2.mlp.down_proj"
    weight = model.get_parameter(f"{layer}.weight")
    fisher = []
    for name in ("forget10", "retain90"):
        total, num_tokens = torch.zeros_like(weight), 0
        for line in (kit / "data" / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            prompt = tokenizer(f"Question: {row['question']}\nAnswer:\n")["input_ids"]
            answer = tokenizer(row["answer"])["input_ids"] + [tokenizer.eos_token_id]
            labels = torch.tensor([[-100] * len(prompt) + answer])
            loss = model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
            [gradient] = torch.autograd.grad(loss, weight)
            total += len(answer) * gradient.square()
            num_tokens += len(answer)
        fisher.append(total / num_tokens)
    a, b = factorize(weight.detach(), *fisher, RANK, SCALING)
    _, found_a, _, found_b = split(final)[layer]
    found, expected = (found_b @ found_a).double(), b @ a
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_what_is_saved_is_a_lora_over_the_untouched_weights(
    kit: Path, final: Path, tmp_path: Path
) -> None:
    settings = json.loads((final / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2 * RANK, 12)
    assert settings["init_lora_weights"] is True
    base = transformers.AutoModelForCausalLM.from_pretrained(kit / "reference")
    start = {name: weight.clone() for name, weight in base.named_parameters()}
    merged: Any = peft.PeftModel.from_pretrained(base, str(final)).merge_and_unload()
    export(final, tmp_path / "whole")
    exported = load_file(tmp_path / "whole" / "model.safetensors")
    for name, weight in merged.named_parameters():
        layer = name.removesuffix(".weight")
        expected = start[name]
        if layer in split(final):
            new_a, a, new_b, b = split(final)[layer]
            expected = expected + SCALING * (new_b @ new_a - b @ a)
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(exported[name], expected, rtol=1e-4, atol=1e-5)


def test_it_goes_on_from_a_checkpoint_to_the_same_bytes(
    kit: Path, final: Path, tmp_path: Path
) -> None:
    """Fisher information is not computed again: the checkpoint has both halves."""
    keep = ["trainer.args.save_strategy=steps", "trainer.args.save_steps=2", *DECAY]
    keep += ["trainer.args.keep_checkpoints=true", "trainer.args.save_total_limit=9"]
    folder = tmp_path / "run"
    run(kit, folder, FILA, *keep)
    expected = (final / "adapter_model.safetensors").read_bytes()
    assert (folder / run_dir.FINAL / "adapter_model.safetensors").read_bytes() == expected
    (folder / run_dir.DONE).unlink()
    run_dir.move_aside(folder / run_dir.FINAL)
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    run_dir.move_aside(newest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unteach.training.fila.fill_adapter", None)
        run(kit, folder, FILA, *keep)
    assert (folder / run_dir.FINAL / "adapter_model.safetensors").read_bytes() == expected


def test_it_lands_where_it_would_have_where_the_run_goes_on(kit: Path, tmp_path: Path) -> None:
    """Where the run goes on nothing is filled again, and the landing starts from the same place."""
    extra = [FILA, *DECAY, "trainer.land={budget: 0.001, texts: 8, tokens: 16}"]
    extra += ["trainer.args.save_strategy=steps", "trainer.args.save_steps=2"]
    extra += ["trainer.args.keep_checkpoints=true", "trainer.args.save_total_limit=9"]
    folder = tmp_path / "run"
    final = run(kit, folder, *extra)
    landed = (final / "adapter_model.safetensors").read_bytes()
    for name in (run_dir.DONE, run_dir.LANDING):
        (folder / name).unlink()
    run_dir.move_aside(final)
    run(kit, folder, *extra)
    assert (folder / run_dir.FINAL / "adapter_model.safetensors").read_bytes() == landed


def test_the_reference_is_the_untouched_model(kit: Path, tmp_path: Path) -> None:
    """KL of the first step is 0, and NPO's loss that of a policy at its reference."""
    extra = [FILA, "trainer.method_args.retain_loss_type=KL", "trainer.args.logging_steps=1"]
    run(kit, tmp_path / "run", *extra, trainer="NPO")
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    beta = 0.1
    forget = 2 / beta * torch.log(torch.tensor(2.0))
    assert first["loss"] == pytest.approx(float(forget), rel=1e-3)


def test_it_can_be_landed_and_merged(kit: Path, tmp_path: Path) -> None:
    extra = [FILA, *DECAY, "trainer.land={budget: 0.001, texts: 8, tokens: 16}"]
    final = run(kit, tmp_path / "run", *extra, "model.merge_adapter=true")
    before = load_file(kit / "reference" / "model.safetensors")
    changed = []
    for name, weight in load_file(final / "model.safetensors").items():
        if not torch.equal(weight, before[name]):
            changed.append(name.split(".")[-2])
    assert set(changed) == set(TARGETS)


@pytest.mark.long
def test_two_processes_come_to_the_same(kit: Path, final: Path, tmp_path: Path) -> None:
    two = words(kit, tmp_path / "two", "trainer=IHL", FILA, *DECAY)
    two += ["launch=ddp", "nproc=2", "trainer.args.per_device_train_batch_size=2"]
    command = [sys.executable, "-m", "unteach", "unlearn", *two]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = split(tmp_path / "two" / run_dir.FINAL)
    for layer, expected in split(final).items():
        for tensor, wanted in zip(found[layer], expected, strict=True):
            torch.testing.assert_close(tensor, wanted, rtol=1e-2, atol=1e-4)


def test_check_says_what_it_takes(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: Any = compose("unlearn", words(kit, tmp_path / "run", "trainer=IHL", FILA))
    check.check(config)
    assert "the adapter begins by FILA: a forward and a backward pass over each row to forget" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["launch=fsdp2"], "launch=fsdp2: no process holds all weights"),
        (["launch=zero2"], "launch=zero2: no process holds all weights"),
        (["trainer=GradAscent"], "trainer.handler=GradAscent .* trains on forget"),
        (["model.peft_args.lora_dropout=0.1"], "lora_dropout: init_lora_weights=fila makes a plain"),
        (["model.peft_args.use_dora=true"], "use_dora: init_lora_weights=fila makes a plain"),
        (["model.peft_args.r=0"], r"peft_args\.r: must be a number from 1"),
        (["model.model_args.quantization_config={load_in_4bit: true}"], "these are quantised"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_fila_cannot_begin_is_refused(
    kit: Path, tmp_path: Path, extra: list[str], message: str
) -> None:
    trainer = [] if extra[0].startswith("trainer=") else ["trainer=IHL"]
    with pytest.raises(UserError, match=message):
        compose("unlearn", words(kit, tmp_path / "run", *trainer, FILA, *extra))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("model.peft_args.r=400", r"r=400: the weight of .* singular values"),
        ("model.peft_args.target_modules=[embed_tokens]", "is a Embedding, and FILA factorises"),
    ],
)
def test_layers_that_fila_cannot_factorise_are_refused(
    kit: Path, tmp_path: Path, extra: str, message: str
) -> None:
    given = words(kit, tmp_path / "run", "trainer=IHL", FILA, extra)
    config: Any = compose("unlearn", given)
    with pytest.raises(UserError, match=message):
        check.check(config)
    with pytest.raises(UserError, match=message):
        train(*given, config_name="unlearn")
