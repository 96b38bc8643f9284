"""LoRA adapters: put on a model, saved with what they were trained on, put back on that and on
nothing else.

Source: LoRA, arXiv:2106.09685; QLoRA (the same over NF4 weights), arXiv:2305.14314.
"""

import contextlib
import functools
import inspect
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic, json_files
from unteach.config.schema import begins_by_fila
from unteach.errors import UserError, describe_machine_failure, find_nearest, get_first_line
from unteach.lazy import peft, safetensors_torch, torch
from unteach.models import added_tokens, integrity, layers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "unteach_base.json"
TRAINED = "default"
"""The name inside a model of the adapter that trains."""
FIRST = "first"
"""The name of the frozen copy of one that training started from."""


def is_adapter(path: str | None) -> bool:
    """Say whether a folder holds an adapter and not a model."""
    if path is None:
        return False
    folder = Path(path)
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()


def attach(
    model: "PreTrainedModel", peft_args: dict[str, Any], added: Sequence[int] = ()
) -> "PeftModel":
    """Put a fresh adapter on a model.

    Only the adapter trains, and with it the rows of added tokens and a classifier's head.

    Args:
        peft_args: by LoraConfig's own names.
        added: ids of added tokens.
    """
    known = set(inspect.signature(peft.LoraConfig).parameters)
    for name in peft_args:
        if name not in known:
            guess = find_nearest(name, known)
            meant = f"; did you mean {guess}?" if guess else ""
            raise UserError(f"model.peft_args.{name}: LoraConfig has no such field{meant}")

    config_args = {"task_type": "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM", **peft_args}
    if added and "trainable_token_indices" not in config_args:
        rows = added_tokens.list_trained_rows(model, added, peft_args)
        if rows:
            config_args["trainable_token_indices"] = rows
    targets = config_args.get("target_modules")
    if isinstance(targets, str) and "," in targets:
        names = [name.strip() for name in targets.split(",")]
        config_args["target_modules"] = [name for name in names if name]
    if begins_by_fila(peft_args):
        config_args = _double_rank(config_args)
    try:
        adapted = peft.get_peft_model(_prepare_quantized(model), peft.LoraConfig(**config_args))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"model.peft_args: {str(error).splitlines()[0]}\n  target_modules takes some of this "
            f"model's linear layers ({', '.join(_list_linear_layers(model))}), as a list or with "
            "commas between, or all-linear"
        ) from None
    _load_all_weights_later(adapted)
    _save_no_tables_later(adapted, added)
    return adapted


def _double_rank(config_args: dict[str, Any]) -> dict[str, Any]:
    """Give the fields of a LoRA whose first half begins by FILA and trains, and whose second half
    takes away what that began with. B is 0 until it is filled."""
    defaults = {"r": 8, "lora_alpha": 8}
    doubled = {name: 2 * config_args.get(name, value) for name, value in defaults.items()}
    return {**config_args, **doubled, "init_lora_weights": True}


def _list_linear_layers(model: "PreTrainedModel") -> list[str]:
    """List the last parts of the names of linear layers."""
    names = set()
    for name, module in model.named_modules():
        if type(module).__name__.startswith(("Linear", "Conv1D")):
            names.add(name.rpartition(".")[2])
    return sorted(names)


def refuse_failing(model: "PeftModel") -> None:
    """Raise UserError where a model cannot be run with its adapter.

    PEFT wraps linear layers that are called as it does not expect, such as some routers of experts.
    The meta device, where nothing has a value, shows nothing.
    """
    weight = next(model.parameters())
    causal: Any = model.get_base_model()
    kernel = str(getattr(causal.config.get_text_config(), "_attn_implementation", ""))
    if weight.is_meta or ("flash" in kernel and weight.device.type == "cpu"):
        return
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            layers.read_two_tokens(causal)
    except Exception as error:  # a forward of others may fail in any way
        if describe_machine_failure(error):
            raise
        targets: list[str] = getattr(model, "targeted_module_names", [])
        wrapped = {name.rpartition(".")[2] for name in targets}
        raise UserError(
            f"model.peft_args: {type(causal).__name__} fails with an adapter on "
            f"{', '.join(sorted(wrapped))} ({type(error).__name__}: {get_first_line(error)}). Name "
            "fewer target_modules, such as attention's alone"
        ) from error
    finally:
        model.train(was_training)


def _save_no_tables_later(model: "PeftModel", added: Sequence[int]) -> None:
    """Have an adapter saved with the rows of added tokens alone; PEFT would save whole embeddings
    wherever they have grown."""
    if added:
        save = functools.partial(model.save_pretrained, save_embedding_layers=False)
        model.save_pretrained = save  # type: ignore[method-assign]


def attach_saved(model: "PreTrainedModel", folder: str, trainable: bool) -> "PeftModel":
    """Put a saved adapter on its base, which gets the rows of the tokens that were added for it
    first."""
    added_ids = read_added_ids(folder)
    added_tokens.grow(model, added_ids)
    if torch.get_default_device().type == "meta":
        # Set here: what the file says of it would win over an argument.
        config = peft.PeftConfig.from_pretrained(folder)
        config.inference_mode = not trainable
        return peft.get_peft_model(model, config)
    try:
        base = _prepare_quantized(model) if trainable else model
        with warnings.catch_warnings():
            # Missing weights are an error below.
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            adapted = peft.PeftModel.from_pretrained(base, folder, is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the adapter {folder} does not fit its base: {str(error).splitlines()[0]}"
        ) from None
    integrity.refuse_incomplete_adapter(adapted, folder)
    _take_all_weights(adapted, folder, TRAINED)
    _load_all_weights_later(adapted)
    _save_no_tables_later(adapted, added_ids)
    return adapted


def _load_all_weights_later(model: "PeftModel") -> None:
    """Have every later adapter that is loaded into a model, such as a checkpoint's, loaded
    whole."""
    load = model.load_adapter

    def load_adapter(folder: str | Path, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        result = load(folder, adapter_name, *args, **kwargs)
        _take_all_weights(model, folder, adapter_name)
        return result

    model.load_adapter = load_adapter  # type: ignore[method-assign, assignment]


def _take_all_weights(model: "PeftModel", folder: str | Path, adapter: str) -> None:
    """Give an adapter that PEFT loaded all the weights of its file.

    PEFT renames what it reads as transformers renames the weights of a family's published files. A
    name that was right already may match such a rule (laguna's shared_experts), and the weight is
    lost with a warning: it stays as drawn.
    """
    file = Path(folder) / WEIGHTS
    if not file.exists():
        return
    slots = peft.get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    with torch.no_grad():
        for name, weight in safetensors_torch.load_file(file).items():
            slot = slots.get(name)
            if slot is not None and slot.shape == weight.shape:
                slot.copy_(weight)


def _prepare_quantized(model: "PreTrainedModel") -> Any:
    """Make a quantised model ready to be trained through: norms in fp32, gradients that reach the
    first layer."""
    if not getattr(model, "is_quantized", False):
        return model
    module: Any
    for module in model.modules():
        # That form of the weights passes no gradient back.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def read_base_path(folder: str) -> str:
    """Read the path or hub id of the model that an adapter was trained on."""
    config = json_files.read_json(Path(folder) / CONFIG, "the adapter's configuration")
    base = config.get("base_model_name_or_path")
    if not base:
        raise UserError(
            f"{folder}: this adapter does not say what it was trained on; set model.base_path"
        )
    return str(base)


def refuse_adapter_as_base(folder: str, base: str) -> None:
    """Raise UserError where an adapter was trained on a model that is an adapter on another itself.

    The library would put the second on both, of which only one is then saved, merged or switched
    off.
    """
    if is_adapter(base):
        raise UserError(
            f"the adapter {folder} was trained over {base}, which is an adapter itself. Merge that "
            f"one first (unteach export {base} to=FOLDER) and set model.base_path=FOLDER"
        )


def remember_base(folder: Path, identity: str, added: Sequence[int] = ()) -> None:
    """Write beside a saved adapter exactly which weights it was trained on, and the ids of tokens
    added to them."""
    atomic.write_json(folder / BASE, {"weights": identity, "added_tokens": list(added)})


def _read_base_note(folder: str) -> dict[str, Any]:
    path = Path(folder) / BASE
    if not path.exists():
        return {}
    note: dict[str, Any] = json_files.read_json(path, "the adapter's note of its base")
    return note


def read_added_ids(folder: str) -> list[int]:
    """Read the ids of the tokens that were added for a saved adapter."""
    return list(_read_base_note(folder).get("added_tokens", []))


def refuse_another_base(folder: str, base: str, identity: str) -> None:
    """Raise UserError where an adapter would be put on weights that it was not trained on."""
    if _read_base_note(folder).get("weights", identity) != identity:
        raise UserError(
            f"the adapter {folder} was trained on other weights than {base} holds now; set "
            "model.base_path to those that it was trained on"
        )


class BasePolicy:
    """A model with adapters in place of a frozen copy: what it was before training, and no second
    model.

    It runs without its adapters or, where training went on from a saved one, with a frozen second
    copy of that.

    Args:
        adapter: the folder of the one that training went on from; "" for none.
    """

    def __init__(self, model: "PeftModel", adapter: str):
        self.model = model
        if adapter:
            model.load_adapter(adapter, adapter_name=FIRST, is_trainable=False)
        causal: Any = model.get_base_model()
        head = causal.get_output_embeddings()
        wrappers = (
            peft.tuners.tuners_utils.BaseTunerLayer,
            peft.utils.other.AuxiliaryTrainingWrapper,
        )
        self.head_is_adapted = isinstance(head, wrappers)

    def get_base_model(self) -> Any:
        return self.model.get_base_model()

    def __call__(self, **inputs: object) -> Any:
        """Run the model as it was before training, without dropout."""
        was_training = self.model.training
        self.model.eval()
        with self.base_weights():
            outputs = self.model(**inputs)
        self.model.train(was_training)
        return outputs

    def base_head(self) -> contextlib.AbstractContextManager[None]:
        """Make the head, within the context, what it was before training."""
        return self.base_weights() if self.head_is_adapted else contextlib.nullcontext()

    @contextlib.contextmanager
    def base_weights(self) -> Iterator[None]:
        """Make all weights, within the context, what they were before training."""
        trained = set()
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                trained.add(name)
        tuner: Any = self.model.base_model
        try:
            if FIRST in self.model.peft_config:
                tuner.set_adapter(FIRST)
                yield
                tuner.set_adapter(TRAINED)
            else:
                with self.model.disable_adapter():
                    yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in trained)
