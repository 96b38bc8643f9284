"""Finding out what holds of a model, against its own forward, when it is loaded.

Two rows of four tokens go through the model as the library runs it, each as it is alone. The same
tokens, padded and then end to end, go through its layers as a pass of ours would: three passes of
28 tokens in all, and one of a single token that goes on from the cache of the second. The answer is
remembered for the configuration and whatever else it depends on, in this process and, where all
holds, in the user's cache; it does not depend on the weights.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from unteach import atomic, fingerprints, json_files
from unteach.errors import UserError, is_out_of_memory
from unteach.lazy import torch, transformers
from unteach.models.capabilities import Capabilities, get_capabilities, set_capabilities
from unteach.models.layers import get_backbone, is_partitioned, num_embeddings, unwrap_model
from unteach.models.lm_head import known_logits, own_logits

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
LENGTH = 5
"""Tokens of a row of the probe."""
SHORT = 2
"""Tokens of the part of a row that is padded."""
VERSION = 4
"""Of the probe: what an older one found is not believed."""
TOLERANCE = 1e-4
"""How far a state may be from what it should be, in units of its length, in fp32."""
HALF_TOLERANCE = 2e-2
"""The same in half precision."""
ALL_SLOW = Capabilities(
    head="own", right_padding=False, left_padding=False, packing=False, continuing=False
)
"""What is taken for granted of a model that cannot be probed: nothing."""
_REMEMBERED: dict[str, Capabilities] = {}


def probe(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Find out what holds of a model, unless it is remembered, and note it on the model.

    On torch's meta device nothing can be run: only what is remembered is noted. Nor where ZeRO-3
    has dealt the weights to the processes: there what was found of the same model in fp32 holds, or
    nothing is taken for granted.
    """
    causal = unwrap_model(model)
    key = _hash_dependencies(causal)
    known = _recall(key)
    weight = next(causal.parameters())
    if known is None and is_partitioned(weight):
        known_of_masters = _recall(_hash_dependencies(causal, as_masters=True))
        set_capabilities(model, known_of_masters or ALL_SLOW)
        return
    if known is None and not weight.is_meta:
        known = _run_probe(causal, tokenizer)
        if known == ALL_SLOW:
            # Where the model failed, the cause may have been the moment: nothing is remembered.
            set_capabilities(model, known)
            return
        # What else does not hold is asked again in every process.
        if known is not None and _is_able(known):
            _write(key, known)
    if known is not None:
        _REMEMBERED[key] = known
        set_capabilities(model, known)


def _is_able(capabilities: Capabilities) -> bool:
    """Say whether nothing is refused, and nothing done the slow way but, perhaps, the head."""
    has_head = capabilities.head != "none"
    return has_head and replace(capabilities, head="known") == Capabilities()


def _recall(key: str) -> Capabilities | None:
    """Return what this process or an earlier one found."""
    return _REMEMBERED.get(key) or _read(key)


def describe_padding(model: "PreTrainedModel") -> str | None:
    """Say why padded rows go through this model one at a time; None where they need not."""
    able = get_capabilities(model)
    sides = []
    if not able.right_padding:
        sides.append("right")
    if not able.left_padding:
        sides.append("left")
    if not sides:
        return None
    name = type(unwrap_model(model)).__name__
    return (
        f"padding on the {' or '.join(sides)} changes what {name} says of a row; such rows go "
        f"through it one by one"
    )


def describe_continuing(model: "PreTrainedModel") -> str | None:
    """Say why a model's continuations are made one at a time; None where they need not."""
    if get_capabilities(model).continuing:
        return None
    return (
        f"{type(unwrap_model(model)).__name__} is not itself where rows are continued together; "
        f"it goes on row by row"
    )


def describe_packing(model: "PreTrainedModel") -> str | None:
    """Say why documents of one row each have a row of their own in this model; None where they need
    not."""
    if get_capabilities(model).packing:
        return None
    return (
        f"{type(unwrap_model(model)).__name__} does not tell the documents of one row apart; each "
        f"has a row of its own"
    )


def refuse_packed(model: "PreTrainedModel") -> None:
    """Raise UserError where rows laid end to end see one another."""
    reason = describe_packing(model)
    if reason:
        cause = reason.partition(";")[0]
        raise UserError(
            f"model.packed=true: {cause}, and rows laid end to end are such; leave it out"
        )


def _hash_dependencies(causal: "PreTrainedModel", as_masters: bool = False) -> str:
    """Digest all that the answer depends on.

    Args:
        as_masters: as a run loads its weights to train.
    """
    weight = next(causal.parameters())
    device = weight.device.type
    if weight.is_meta or as_masters:
        device = "cpu"
    dtype = torch.float32 if as_masters else weight.dtype
    settings = causal.config.to_dict()
    for name in ("dtype", "_name_or_path", "id2label"):
        settings.pop(name, None)
    kernel = getattr(causal.config.get_text_config(), "_attn_implementation", None)
    versions = [VERSION, transformers.__version__, torch.__version__]
    return fingerprints.hash_value(
        [type(causal).__name__, settings, kernel, str(dtype), device, *versions]
    )


def _run_probe(
    causal: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> Capabilities | None:
    """Run the probe.

    Returns:
        ALL_SLOW where the model fails at it; None where nothing can be said.
    """
    was_training = causal.training
    causal.eval()
    try:
        with torch.no_grad(), _on_its_device(causal):
            return _compare(causal, make_ordinary_rows(causal, tokenizer))
    except Exception as error:  # a forward of others may fail in any way
        return None if is_out_of_memory(error) else ALL_SLOW
    finally:
        causal.train(was_training)


@contextlib.contextmanager
def _on_its_device(causal: "Module") -> Iterator[None]:
    """Move a model to the GPU meanwhile where its attention runs nowhere else."""
    weight = next(causal.parameters())
    config: Any = causal.config
    needs_gpu = "flash" in str(getattr(config.get_text_config(), "_attn_implementation", ""))
    if not needs_gpu or weight.device.type != "cpu" or not torch.cuda.is_available():
        yield
        return
    causal.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    try:
        yield
    finally:
        causal.to("cpu")


def make_ordinary_rows(causal: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> "Tensor":
    """Make two rows of ordinary tokens, none twice: ids [2, LENGTH]."""
    reserved = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for settings in (causal.config, causal.config.get_text_config()):
        for name, value in vars(settings).items():
            # A placeholder of an image, say.
            if name.endswith(("token_id", "token_index")) and isinstance(value, int):
                reserved.add(value)
    num_rows = num_embeddings(causal)
    # Spread over the vocabulary, so that their embeddings are not all of rare tokens or of bytes.
    step = max(1, num_rows // 1009)
    candidates = dict.fromkeys([*range(0, num_rows, step), *range(num_rows)])
    ordinary = [token for token in candidates if token not in reserved]
    # A tiny vocabulary gives some of them more than once.
    ids = (ordinary * 2 * LENGTH)[: 2 * LENGTH]
    return torch.tensor(ids, device=next(causal.parameters()).device).view(2, LENGTH)


def _compare(causal: "PreTrainedModel", rows: "Tensor") -> Capabilities | None:
    """Compare our ways with the model's own forward on these rows [2, LENGTH].

    Returns:
        None where the model's own forward gives no finite numbers.
    """
    # The model's own forward, each row as it is alone.
    backbone = get_backbone(causal)
    outputs: list[Any] = []
    hook = backbone.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        logits = causal(input_ids=rows, use_cache=False).logits
    finally:
        hook.remove()
    if not torch.isfinite(logits).all():
        return None
    # Where it does not call its layers as a module, they are called here.
    if not outputs:
        outputs.append(_run_layers(backbone, rows, torch.ones_like(rows)))
    alone = outputs[-1].last_hidden_state  # [2, LENGTH, d]

    # The same tokens as passes of ours would run them.

    padded = _attempt(lambda: _run_padded(causal, rows), None)
    right_padding = left_padding = False
    if padded is not None:
        right_padding, left_padding = _compare_padded(padded.last_hidden_state, alone)
    # A model with a state of its own in place of such a cache is continued by the library alone,
    # all rows in one go.
    continuing = left_padding and (
        getattr(causal, "_is_stateful", False)
        or _attempt(lambda: _is_continued(backbone, rows, padded, alone), False)
    )
    return Capabilities(
        head=_find_head(causal, alone, logits),
        right_padding=right_padding,
        left_padding=left_padding,
        packing=_attempt(lambda: _is_packed(backbone, rows, alone), False),
        continuing=continuing,
    )


def _run_padded(causal: "PreTrainedModel", rows: "Tensor") -> Any:
    """Run the first row, shortened, padded on the right and on the left, beside the second as it
    is."""
    num_padding = LENGTH - SHORT
    padding_id = getattr(causal.config.get_text_config(), "pad_token_id", None) or 0
    filler = rows.new_full((num_padding,), padding_id)
    short = rows[0, :SHORT]
    ids = torch.stack([torch.cat([short, filler]), torch.cat([filler, short]), rows[1]])
    mask = torch.ones_like(ids)
    mask[0, SHORT:] = 0
    mask[1, :num_padding] = 0
    return _run_layers(get_backbone(causal), ids, mask, use_cache=True)


def _compare_padded(padded: "Tensor", alone: "Tensor") -> tuple[bool, bool]:
    """Say whether rows padded on the right, and on the left, are what they are alone."""
    is_whole = _same(padded[2], alone[1])
    right = _same(padded[0, :SHORT], alone[0, :SHORT])
    left = _same(padded[1, LENGTH - SHORT :], alone[0, :SHORT])
    return is_whole and right, is_whole and left


def _is_packed(backbone: "Module", rows: "Tensor", alone: "Tensor") -> bool:
    """Say whether two rows laid end to end are what they are alone."""
    position_ids = torch.arange(LENGTH, device=rows.device).repeat(2)
    packed = _run_layers(backbone, rows.view(1, -1), None, position_ids[None]).last_hidden_state
    return _same(packed[0, :LENGTH], alone[0]) and _same(packed[0, LENGTH:], alone[1])


def _is_continued(backbone: "Module", rows: "Tensor", padded: Any, alone: "Tensor") -> bool:
    """Say whether the row that is padded on the left goes on as it would alone, once the others
    have left the cache: by one token, then by several at once.

    Args:
        padded: the output of `_run_padded`, with its cache.
    """
    cache = padded.past_key_values
    cache.batch_select_indices(torch.tensor([1], device=rows.device))
    num_padding = LENGTH - SHORT
    states = []
    for start, end in ((SHORT, SHORT + 1), (SHORT + 1, LENGTH)):
        mask = rows.new_ones(1, num_padding + end)
        mask[0, :num_padding] = 0
        position_ids = torch.arange(start, end, device=rows.device)[None]
        next_ids = rows[:1, start:end]
        output = _run_layers(
            backbone, next_ids, mask, position_ids, use_cache=True, past_key_values=cache
        )
        cache = output.past_key_values
        states.append(output.last_hidden_state[0])
    return _same(torch.cat(states), alone[0, SHORT:])


def _run_layers(
    backbone: "Module",
    ids: "Tensor",
    mask: "Tensor | None",
    position_ids: "Tensor | None" = None,
    use_cache: bool = False,
    **library_args: object,
) -> Any:
    """Call a model's layers as a pass of ours does: ids [B, T] -> an output with last hidden states
    [B, T, d]."""
    if position_ids is None and mask is not None:
        position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    return backbone(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position_ids,
        use_cache=use_cache,
        **library_args,
    )


def _find_head(
    causal: "PreTrainedModel", hidden: "Tensor", logits: "Tensor"
) -> Literal["known", "own", "none"]:
    """Find by which way these hidden states [B, T, d] become these logits.

    Args:
        logits: of each position, [B, T, V], or a classifier's, [B, C].
    """
    if hasattr(causal, "score"):
        classify: Any = causal.score
        return "known" if _same(classify(hidden)[:, -1], logits) else "none"
    states = hidden.flatten(0, 1)
    expected = logits.flatten(0, 1)
    if _attempt(lambda: _same(known_logits(causal, states), expected), False):
        return "known"
    if _attempt(lambda: _same(own_logits(causal, states), expected), False):
        return "own"
    return "none"


def _attempt(compare: Callable[[], T], otherwise: T) -> T:
    """Return what a comparison gives, or `otherwise` where the model fails at it."""
    try:
        return compare()
    except Exception as error:  # a forward of others may fail in any way
        # A want of memory says nothing of the model.
        if is_out_of_memory(error):
            raise
        return otherwise


def _same(states: "Tensor", expected: "Tensor") -> bool:
    """Say whether vectors [n, d] are the same but for rounding, each measured by the length of what
    it should be.

    Half precision has noise of the tolerance's size, and a mixture of experts may send a single
    token elsewhere for it: there half of all positions must be close. In fp32 all must, for what is
    systematically wrong may be wrong in few.
    """
    if states.shape != expected.shape:
        return False
    is_half = torch.finfo(expected.dtype).bits < 32
    states, expected = states.double(), expected.double()
    distances = (states - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)
    if is_half:
        return bool(distances.median() <= HALF_TOLERANCE)
    return bool(distances.max() <= TOLERANCE)


def _get_path(key: str) -> Path:
    cache_dir = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache_dir / "unteach" / "capabilities" / f"{key}.json"


def _read(key: str) -> Capabilities | None:
    """Read what an earlier run found; whatever else is in the file is ignored."""
    try:
        settings = json_files.read_json(_get_path(key), "what holds of a model")
        capabilities = Capabilities(**settings)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    flags = asdict(capabilities)
    head = flags.pop("head")
    if head not in ("known", "own", "none"):
        return None
    if not all(type(flag) is bool for flag in flags.values()):
        return None
    return capabilities


def _write(key: str, capabilities: Capabilities) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        atomic.write_json(_get_path(key), asdict(capabilities))
