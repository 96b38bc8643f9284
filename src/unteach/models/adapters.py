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
from typing import Any

from unteach import atomic, json_files
from unteach.errors import UserError, describe_machine_failure, first_line, nearest
from unteach.lazy import peft, torch
from unteach.models import added_tokens, integrity, layers

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "unteach_base.json"
TRAINED, FIRST = "default", "first"
"""Names of adapters inside a model: the one that trains, and the frozen copy of one that training
started from."""


def is_adapter(path: str | None) -> bool:
    """Whether a folder holds an adapter and not a model."""
    return (
        path is not None
        and (Path(path) / CONFIG).exists()
        and not (Path(path) / "config.json").exists()
    )


def attach(model: Any, peft_args: dict[str, Any], added: Sequence[int] = ()) -> Any:
    """Puts a fresh adapter on a model. `peft_args` are LoraConfig's own names; only the adapter
    trains, and with it the rows of added tokens and a classifier's head."""
    known = set(inspect.signature(peft.LoraConfig).parameters)
    for name in peft_args:
        if name not in known:
            guess = nearest(name, known)
            raise UserError(
                f"model.peft_args.{name}: LoraConfig has no such field"
                + (f"; did you mean {guess}?" if guess else "")
            )
    given = {"task_type": "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM", **peft_args}
    if (
        added
        and "trainable_token_indices" not in given
        and (rows := added_tokens.trained_rows(model, added, peft_args))
    ):
        given["trainable_token_indices"] = rows
    targets = given.get("target_modules")
    if isinstance(targets, str) and "," in targets:
        given["target_modules"] = [name.strip() for name in targets.split(",") if name.strip()]
    try:
        adapted = peft.get_peft_model(_ready(model), peft.LoraConfig(**given))
    except (ValueError, TypeError) as error:
        kinds = ("Linear", "Conv1D")
        linear = {
            name.rpartition(".")[2]
            for name, m in model.named_modules()
            if type(m).__name__.startswith(kinds)
        }
        raise UserError(
            f"model.peft_args: {str(error).splitlines()[0]}\n  target_modules takes some of this "
            f"model's linear layers "
            f"({', '.join(sorted(linear))}), as a list or with commas between, or all-linear"
        ) from None
    _loads_all_weights(adapted)
    return _saves_no_tables(adapted, added)


def refuse_failing(model: Any) -> None:
    """Raise UserError where a model cannot be run with its adapter: PEFT wraps linear layers that
    are called as it does not expect, such as some routers of experts. The meta device, where
    nothing has a value, tells nothing."""
    weight = next(model.parameters())
    causal = model.get_base_model()
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
        wrapped = sorted(
            {name.rpartition(".")[2] for name in getattr(model, "targeted_module_names", ())}
        )
        raise UserError(
            f"model.peft_args: {type(causal).__name__} fails with an adapter on "
            f"{', '.join(wrapped)} ({type(error).__name__}: {first_line(error)}). Name fewer "
            "target_modules, such as attention's alone"
        ) from error
    finally:
        model.train(was_training)


def _saves_no_tables(model: Any, added: Sequence[int]) -> Any:
    """An adapter holds the rows of added tokens; PEFT would save whole embeddings wherever they
    have grown."""
    if added:
        model.save_pretrained = functools.partial(
            model.save_pretrained, save_embedding_layers=False
        )
    return model


def attach_saved(model: Any, folder: str, trainable: bool) -> Any:
    """Puts a saved adapter on its base, which gets the rows of the tokens that were added for it
    first."""

    added_tokens.grow(model, read_added_ids(folder))
    if torch.get_default_device().type == "meta":
        # Set here: what the file says of it would win over an argument.
        config = peft.PeftConfig.from_pretrained(folder)
        config.inference_mode = not trainable
        return peft.get_peft_model(model, config)
    try:
        under = _ready(model) if trainable else model
        with warnings.catch_warnings():
            # which is an error below
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            adapted = peft.PeftModel.from_pretrained(under, folder, is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the adapter {folder} does not fit its base: {str(error).splitlines()[0]}"
        ) from None
    integrity.refuse_incomplete_adapter(adapted, folder)
    _take_all_weights(adapted, folder, TRAINED)
    _loads_all_weights(adapted)
    return _saves_no_tables(adapted, read_added_ids(folder))


def _loads_all_weights(model: Any) -> None:
    """Have every later adapter that is loaded into a model, such as a checkpoint's, loaded
    whole."""
    load = model.load_adapter

    def load_adapter(folder: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        result = load(folder, adapter_name, *args, **kwargs)
        _take_all_weights(model, folder, adapter_name)
        return result

    model.load_adapter = load_adapter


def _take_all_weights(model: Any, folder: Any, adapter: str) -> None:
    """Give an adapter that PEFT loaded all the weights of its file.

    PEFT renames what it reads as transformers renames the weights of a family's published files. A
    name that was right already may match such a rule (laguna's shared_experts), and the weight is
    lost with a warning: it stays as drawn.
    """
    from safetensors.torch import load_file

    file = Path(folder) / WEIGHTS
    if not file.exists():
        return
    slots = peft.get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    with torch.no_grad():
        for name, weight in load_file(file).items():
            slot = slots.get(name)
            if slot is not None and slot.shape == weight.shape:
                slot.copy_(weight)


def _ready(model: Any) -> Any:
    """A quantised model made ready to be trained through: norms in fp32, gradients that reach the
    first layer."""
    if not getattr(model, "is_quantized", False):
        return model
    for module in model.modules():
        # a form of the weights that passes no gradient back
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def read_base_path(folder: str) -> str:
    """The path or hub id of the model that an adapter was trained on."""
    told = json_files.read_json(Path(folder) / CONFIG, "the adapter's configuration").get(
        "base_model_name_or_path"
    )
    if not told:
        raise UserError(
            f"{folder}: this adapter does not say what it was trained on; set model.base_path"
        )
    return str(told)


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
    """Notes beside a saved adapter exactly which weights it was trained on, and the ids of tokens
    added to them."""
    atomic.write_json(folder / BASE, {"weights": identity, "added_tokens": list(added)})


def _read_base_note(folder: str) -> dict[str, Any]:
    noted = Path(folder) / BASE
    return json_files.read_json(noted, "the adapter's note of its base") if noted.exists() else {}


def read_added_ids(folder: str) -> list[int]:
    """The ids of the tokens that were added for a saved adapter."""
    return list(_read_base_note(folder).get("added_tokens", []))


def refuse_another_base(folder: str, base: str, identity: str) -> None:
    """Raises UserError where an adapter would be put on weights that it was not trained on."""
    if _read_base_note(folder).get("weights", identity) != identity:
        raise UserError(
            f"the adapter {folder} was trained on other weights than {base} holds now; set "
            "model.base_path to those that it was trained on"
        )


class BasePolicy:
    """A model with adapters standing for the frozen copy of itself: what it was before training,
    and no second model.

    It runs without its adapters or, where training went on from a saved one, with a frozen second
    copy of that.
    """

    def __init__(self, model: Any, adapter: str):
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        self.model = model
        if adapter:
            model.load_adapter(adapter, adapter_name=FIRST, is_trainable=False)
        head = model.get_base_model().get_output_embeddings()
        self.head_is_adapted = isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper)

    def get_base_model(self) -> Any:
        return self.model.get_base_model()

    def __call__(self, **asked: Any) -> Any:
        was_training = self.model.training
        self.model.eval()
        with self.base_weights():
            found = self.model(**asked)
        self.model.train(was_training)
        return found

    def base_head(self) -> contextlib.AbstractContextManager[None]:
        """Within it, the head is what it was."""
        return self.base_weights() if self.head_is_adapted else contextlib.nullcontext()

    @contextlib.contextmanager
    def base_weights(self) -> Iterator[None]:
        trained = {
            name for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }
        try:
            if FIRST in self.model.peft_config:
                self.model.base_model.set_adapter(FIRST)
                yield
                self.model.base_model.set_adapter(TRAINED)
            else:
                with self.model.disable_adapter():
                    yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in trained)
