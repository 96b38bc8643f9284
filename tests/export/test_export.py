"""Anything trained becomes a plain model folder or an adapter, whole or not at all, and what does
not fit is named."""

import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from tests.doors import export, train
from unteach import atomic, run_dir
from unteach.errors import UserError
from unteach.export import weights
from unteach.verbs.load import load
from unteach.verbs.start import start

IDS = torch.arange(3, 20)[None]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
WORDS = (
    "experiment=finetune/tofu/default",
    "tofu_path=authors",
    "model=auto",
    "eval=null",
    "trainer.args.max_steps=2",
    "trainer.args.per_device_train_batch_size=2",
    "trainer.args.gradient_accumulation_steps=1",
    "trainer.args.learning_rate=1e-2",
    "trainer.args.warmup_epochs=0",
    "trainer.args.save_strategy=steps",
    "trainer.args.save_steps=1",
    "trainer.args.keep_checkpoints=true",
    "trainer.args.save_total_limit=2",
)


def run(base: Path, folder: Path, *extra: str) -> Path:
    train(
        *WORDS,
        f"model.model_args.pretrained_model_name_or_path={base}",
        f"task_name={folder.name}",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        *extra,
    )
    return folder


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny_folder, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def lora(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    return run(
        tiny_folder,
        folder,
        "model.peft_args={r: 4, lora_alpha: 8, target_modules: 'q_proj, v_proj'}",
    )


@pytest.fixture(scope="module")
def peft_model(tiny_folder: Path) -> Any:
    """A LoRA over the tiny model whose adapter is not zero."""
    import peft

    torch.manual_seed(1)
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    model = peft.get_peft_model(base, peft.LoraConfig(**LORA))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def plain(folder: Path) -> torch.Tensor:
    return logits(transformers.AutoModelForCausalLM.from_pretrained(folder))


def test_a_checkpoint_becomes_a_plain_model(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("export", [str(whole / "checkpoint-1"), f"to={tmp_path / 'first'}"])
    start("export", [str(whole), f"to={tmp_path / 'last'}", "dtype=bfloat16"])
    assert f"results: {tmp_path / 'last'}" in capsys.readouterr().out
    first, last = plain(tmp_path / "first"), plain(whole / run_dir.FINAL)
    assert torch.equal(
        first, logits(load(str(whole / "checkpoint-1")).model)
    ) and not torch.allclose(first, last)
    kept = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "last")
    assert kept.dtype == torch.bfloat16 and torch.allclose(logits(kept).float(), last, atol=0.05)
    assert load(str(tmp_path / "last")).template.args == load(str(whole)).template.args
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "last")("a b").input_ids


def test_an_adapter_is_merged_and_kept(lora: Path, tmp_path: Path) -> None:
    import peft

    for name in (run_dir.FINAL, "checkpoint-1"):
        with_adapter = logits(load(str(lora / name)).model)
        export(str(lora / name), str(tmp_path / name / "merged"))
        export(str(lora / name), str(tmp_path / name / "adapter"), "adapter")
        assert torch.allclose(plain(tmp_path / name / "merged"), with_adapter, atol=1e-5)
        base = json.loads((tmp_path / name / "adapter" / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        on_base = peft.PeftModel.from_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / name / "adapter"
        )
        assert torch.equal(logits(on_base), with_adapter)
        assert torch.equal(logits(load(str(tmp_path / name / "adapter")).model), with_adapter)


@pytest.mark.parametrize(
    "kept", ["pickled", "sharded", "old names", "half", "deepspeed", "fsdp", "adapter's alone"]
)
def test_an_adapter_is_taken_out_of_a_whole_state_dict(
    kept: str, peft_model: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    state, place = dict(peft_model.state_dict()), tmp_path / "old"
    place.mkdir()
    if kept == "half":
        state = {name: tensor.half() for name, tensor in state.items()}
    if kept == "old names":  # PEFT of 2023: the linear layer itself held the base's weight
        state = {
            f"module.{name.replace('.base_layer', '')}": tensor for name, tensor in state.items()
        }
    if kept == "sharded":
        from safetensors.torch import save_file

        names = sorted(state)
        parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, of in parts.items():
            save_file({name: state[name].clone() for name in of}, place / file)
        told = {"weight_map": {name: file for file, of in parts.items() for name in of}}
        (place / "model.safetensors.index.json").write_text(json.dumps(told))
    elif kept == "fsdp":
        from torch.distributed import checkpoint

        checkpoint.save(
            {"model": state}, checkpoint_id=place / "pytorch_model_fsdp_0", no_dist=True
        )
    elif kept == "adapter's alone":
        import peft

        torch.save(peft.get_peft_model_state_dict(peft_model), place / "pytorch_model_fsdp.bin")
    elif kept == "deepspeed":
        as_deepspeed_does(peft_model, state, place)
    else:
        torch.save(state, place / "pytorch_model.bin")
    peft_args = {name: value for name, value in LORA.items() if name != "task_type"}
    export(str(place), str(tmp_path / "a"), "adapter", base=str(tiny_folder), peft_args=peft_args)
    found, wanted = logits(load(str(tmp_path / "a")).model), logits(peft_model)
    assert torch.allclose(found, wanted, atol=1e-2 if kept == "half" else 1e-6)
    export(str(place), str(tmp_path / "m"), base=str(tiny_folder), peft_args=peft_args)
    assert torch.allclose(plain(tmp_path / "m"), wanted, atol=1e-2 if kept == "half" else 1e-5)


def as_deepspeed_does(model: Any, state: dict[str, torch.Tensor], place: Path) -> None:
    """The files of a ZeRO-2 checkpoint of one process, as DeepSpeed 0.19 lays them out, without
    running it."""
    zero = pytest.importorskip("deepspeed.runtime.zero.config", reason='pip install ".[deepspeed]"')
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    frozen = {
        name: parameter
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    }
    tag = place / "global_step1"
    tag.mkdir()
    (place / "latest").write_text("global_step1")
    torch.save(
        {
            "buffer_names": [],
            "module": state,
            "param_shapes": [{name: p.shape for name, p in trained.items()}],
            "shared_params": {},
            "ds_version": "0.19.8",
            "frozen_param_shapes": {n: p.shape for n, p in frozen.items()},
            "frozen_param_fragments": {name: p.detach() for name, p in frozen.items()},
        },
        tag / "mp_rank_00_model_states.pt",
    )
    flat = torch.cat([parameter.detach().flatten() for parameter in trained.values()])
    torch.save(
        {
            "optimizer_state_dict": {
                "zero_stage": zero.ZeroStageEnum.gradients,
                "partition_count": 1,
                "single_partition_of_fp32_groups": [flat],
            }
        },
        tag / "zero_pp_rank_0_mp_rank_00_optim_states.pt",
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"r": 8}, r"has rank 4, and model\.peft_args gives rank 8; set r to 4"),
        (
            {"target_modules": ["q_proj"]},
            r"is on q_proj, v_proj, and model\.peft_args puts one on q_proj;",
        ),
        ({"target_modules": "all-linear"}, "puts one on down_proj"),
        ({"layers_to_transform": [0]}, "of another form"),
        ({"rank": 4}, "LoraConfig has no such field"),
        (None, r"no file says its rank, alpha and targets"),
    ],
)
def test_a_wrong_rank_or_target_is_named(
    changed: dict[str, Any] | None, said: str, peft_model: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    torch.save(peft_model.state_dict(), tmp_path / "pytorch_model.bin")
    peft_args = None if changed is None else {**LORA, **changed}
    with pytest.raises(UserError, match=said):
        export(
            str(tmp_path),
            str(tmp_path / "out"),
            "adapter",
            base=str(tiny_folder),
            peft_args=peft_args,
        )
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_another_base_is_named(
    peft_model: Any, lora: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    torch.save(peft_model.state_dict(), tmp_path / "pytorch_model.bin")
    other = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    other.model.layers[1].mlp.up_proj.weight.data.mul_(1.1)
    other.save_pretrained(tmp_path / "moved")
    other.resize_token_embeddings(512)
    other.save_pretrained(tmp_path / "resized")
    for name, said in (
        ("moved", "up_proj.weight has other values"),
        ("resized", "embed_tokens.weight is 400 x 32"),
    ):
        with pytest.raises(UserError, match=said):
            export(
                str(tmp_path),
                str(tmp_path / "out"),
                "adapter",
                base=str(tmp_path / name),
                peft_args=LORA,
            )
    with pytest.raises(UserError, match="was trained on other weights"):
        export(str(lora), str(tmp_path / "out"), base=str(tmp_path / "moved"))


def test_a_quantised_base_is_not_merged_into(lora: Path, tiny_folder: Path, tmp_path: Path) -> None:
    quantised = Path(shutil.copytree(tiny_folder, tmp_path / "four-bit"))
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match="is quantised, and an adapter is not merged into rounded weights"
    ):
        export(str(lora), str(tmp_path / "out"), base=str(quantised))


def test_whole_weights_of_other_trainers(tiny: Any, tiny_folder: Path, tmp_path: Path) -> None:
    from torch.distributed import checkpoint

    checkpoint.save(
        {"model": tiny.model.state_dict()},
        checkpoint_id=tmp_path / "f" / "pytorch_model_fsdp_0",
        no_dist=True,
    )
    export(str(tmp_path / "f"), str(tmp_path / "fsdp"), base=str(tiny_folder))
    torch.save({"state_dict": tiny.model.state_dict()}, tmp_path / "weights.pt")
    export(str(tmp_path / "weights.pt"), str(tmp_path / "pt"), base=str(tiny_folder))
    for name in ("fsdp", "pt"):
        assert torch.equal(plain(tmp_path / name), logits(tiny.model))
    with pytest.raises(UserError, match=r"no config\.json beside it"):
        export(str(tmp_path / "weights.pt"), str(tmp_path / "out"))
    torch.save(
        {
            name: t[:100] if t.ndim == 2 and len(t) == 400 else t
            for name, t in tiny.model.state_dict().items()
        },
        tmp_path / "cut.pt",
    )
    with pytest.raises(UserError, match="100 x 32 in these weights and 400 x 32"):
        export(str(tmp_path / "cut.pt"), str(tmp_path / "out"), base=str(tiny_folder))
    torch.save(
        {name: t for name, t in tiny.model.state_dict().items() if "layers.1" not in name},
        tmp_path / "short.pt",
    )
    with pytest.raises(UserError, match=r"they lack model\.layers\.1.*and \d more"):
        export(str(tmp_path / "short.pt"), str(tmp_path / "out"), base=str(tiny_folder))


class Spiteful:
    def __reduce__(self) -> Any:
        return print, ("this should never be printed",)


class Called:
    """Is pickled as the result of a call."""

    def __init__(self, *call: Any):
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def test_of_getattr_an_index_gets_members_of_enumerations_alone() -> None:
    """As Python up to 3.11.3 pickles them."""
    import io
    import pickle

    from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, TensorProperties

    def read(call: Called) -> Any:
        return weights._IndexUnpickler(io.BytesIO(pickle.dumps(call))).load()

    assert (
        read(Called(getattr, _MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT"))
        is _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT
    )
    for of, name in (
        (_MEM_FORMAT_ENCODING, "__init__"),
        (TensorProperties, "__init__"),
        (torch.Size, "numel"),
    ):
        with pytest.raises(pickle.UnpicklingError, match="getattr"):
            read(Called(getattr, of, name))


def test_nothing_but_tensors_is_unpickled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pickle

    torch.save({"a": torch.ones(2), "b": Spiteful()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / ".metadata").write_bytes(pickle.dumps(Spiteful()))
    (tmp_path / "d" / "step1").mkdir(parents=True)
    (tmp_path / "d" / "latest").write_text("step1")
    torch.save({"b": Spiteful()}, tmp_path / "d" / "step1" / "mp_rank_00_model_states.pt")
    shutil.copytree(tmp_path / "d", tmp_path / "g")
    torch.save(
        {"b": Called(getattr, OrderedDict, "fromkeys")},
        tmp_path / "g" / "step1" / "mp_rank_00_model_states.pt",
    )
    for place in (tmp_path, tmp_path / "f", tmp_path / "d", tmp_path / "g"):
        with pytest.raises(UserError, match=r"(could run code|no use for)"):
            weights.read(place)
    assert "never" not in capsys.readouterr().out
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match="damaged"):
        weights.read(tmp_path)


def test_what_cannot_be_exported_is_said(whole: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    (begun / "checkpoint-3").mkdir(parents=True)
    (begun / "config.yaml").write_text("model: {}")
    cases: list[tuple[list[str], str]] = [
        ([], "name one thing"),
        ([str(whole)], "say where to"),
        ([str(whole), f"to={tmp_path}", "as=adaptor"], "did you mean adapter"),
        ([str(whole), f"to={tmp_path}", "ass=adapter"], "did you mean as"),
        ([str(whole), f"to={tmp_path / 'o'}", "as=adapter"], "only a whole model"),
        (
            [str(whole), f"to={tmp_path / 'o'}", "model.peft_args={r: 4}"],
            "leave out model.peft_args",
        ),
        ([str(whole), f"to={tmp_path / 'o'}", "dtype=int8"], "no dtype called 'int8'"),
        ([str(tmp_path / "nowhere"), f"to={tmp_path}"], "no such file or folder"),
        ([str(begun), f"to={tmp_path / 'o'}"], r"one of its checkpoints \(checkpoint-3\)"),
        ([str(begun / "checkpoint-3"), f"to={tmp_path / 'o'}"], "it was not finished"),
        ([str(whole), f"to={tmp_path}"], "something else is there"),
    ]
    for words, said in cases:
        with pytest.raises(UserError, match=said):
            start("export", words)


def test_it_is_written_whole_or_not_at_all(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    stopped = tmp_path / f".out.000000-1-00000000{atomic.SUFFIX}"
    stopped.mkdir()
    (stopped / "model.safetensors").write_text("half")
    os.utime(stopped, (0, 0))
    (tmp_path / ".mine.abcd1234").write_text("not an export's")
    with monkeypatch.context() as patched:
        patched.setattr(
            "unteach.export.trained.save_tokenizer_and_template",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            export(str(whole), str(target))
    assert not target.exists()
    export(str(whole), str(target))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".mine.abcd1234", "out"]
    written = (target / "model.safetensors").stat().st_mtime_ns
    export(str(whole), str(target))
    assert (target / "model.safetensors").stat().st_mtime_ns == written, (
        "the same again is not done again"
    )
    with pytest.raises(UserError, match="something else is there"):
        export(str(whole), str(target), dtype="bfloat16")


def test_pushing(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    calls: list[Any] = []

    class Hub:
        def create_repo(self, repository: str, **given: Any) -> None:
            calls.append((repository, given))

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
            calls.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so nothing can be uploaded"):
        export(str(whole), push="me/model")
    assert not calls
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    start("export", [str(whole), "push=me/model", f"to={tmp_path / 'out'}"])
    start("export", [str(whole), "push=me/other", "private=false"])
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= calls[1][1]
    assert (
        calls[2] == ("me/other", {"private": False, "exist_ok": True})
        and "model.safetensors" in calls[3][1]
    )
    monkeypatch.setattr(
        Hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("401 Unauthorized"))
    )
    with pytest.raises(UserError, match=r"did not take it \(401 Unauthorized\)"):
        export(str(whole), str(tmp_path / "out"), push="me/model")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_checkpoints_are_models_that_can_be_asked(whole: Path, lora: Path) -> None:
    for folder in (whole, lora):
        loaded = load(str(folder / "checkpoint-1"))
        assert loaded.template.args == load(str(folder)).template.args
    assert SimpleNamespace(
        **json.loads((lora / "checkpoint-1" / "unteach_base.json").read_text())
    ).weights
