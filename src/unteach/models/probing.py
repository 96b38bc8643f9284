"""Finding out what holds of a model, against its own forward, when it is loaded.

Two rows of four tokens go through the model as the library runs it, each as it is alone. The same
tokens, padded and then end to end, go through its layers as a pass of ours would: three passes of
28 tokens in all, and one of a single token that goes on from the cache of the second. The answer is
remembered for the configuration and whatever else it depends on, in this process and in the user's
cache; it does not depend on the weights.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unteach import atomic, fingerprints, json_files
from unteach.errors import NO_MEMORY, UserError
from unteach.lazy import torch, transformers
from unteach.models.capabilities import Capabilities, get_capabilities, set_capabilities
from unteach.models.layers import get_backbone, is_partitioned, num_embeddings, unwrap_model
from unteach.models.lm_head import known_logits, own_logits

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
LENGTH, SHORT = 4, 2
"""Tokens of a row of the probe, and of the part of one that is padded."""
VERSION = 1
"""Of the probe: what an older one found is not believed."""
CLOSE, CLOSE_HALF = 1e-4, 2e-2
"""How far a state may be from what it should be, in units of its length: in fp32, and in half
precision."""
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
    key = _key(causal)
    known = _REMEMBERED.get(key) or _read(key)
    weight = next(causal.parameters())
    if known is None and is_partitioned(weight):
        of_masters = _key(causal, as_masters=True)
        known = _REMEMBERED.get(of_masters) or _read(of_masters) or ALL_SLOW
        set_capabilities(model, known)
        return
    if known is None and not weight.is_meta:
        known = _find_out(causal, tokenizer)
        if known is not None:
            _write(key, known)
    if known is not None:
        _REMEMBERED[key] = known
        set_capabilities(model, known)


def describe_padding(model: "PreTrainedModel") -> str | None:
    """Say why padded rows go through this model one at a time; None where they need not."""
    able = get_capabilities(model)
    sides = [
        side
        for side, holds in (("right", able.right_padding), ("left", able.left_padding))
        if not holds
    ]
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
        f"it "
        f"goes on row by row"
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
    if reason := describe_packing(model):
        cause = reason.partition(";")[0]
        raise UserError(
            f"model.packed=true: {cause}, and rows laid end to end are such; leave it out"
        )


def _key(causal: "PreTrainedModel", as_masters: bool = False) -> str:
    """Digest all that the answer depends on; as_masters: as a run loads its weights to train."""
    weight = next(causal.parameters())
    device = weight.device.type
    if weight.is_meta or as_masters:
        device = "cpu"
    settings = {
        k: v
        for k, v in causal.config.to_dict().items()
        if k not in ("dtype", "_name_or_path", "id2label")
    }
    kernel = getattr(causal.config.get_text_config(), "_attn_implementation", None)
    versions = [VERSION, transformers.__version__, torch.__version__]
    return fingerprints.hash_value(
        [
            type(causal).__name__,
            settings,
            kernel,
            str(torch.float32 if as_masters else weight.dtype),
            device,
            *versions,
        ]
    )


def _find_out(
    causal: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> Capabilities | None:
    """Run the probe. Where it fails, nothing is taken for granted; None where nothing can be
    said."""
    was_training = causal.training
    causal.eval()
    try:
        with torch.no_grad(), _on_its_device(causal):
            return _compare(causal, ordinary_rows(causal, tokenizer))
    except Exception as error:  # a forward of others may fail in any way
        return None if is_of_memory(error) else ALL_SLOW
    finally:
        causal.train(was_training)


@contextlib.contextmanager
def _on_its_device(causal: Any) -> Iterator[None]:
    """Move a model to the GPU meanwhile where its attention runs nowhere else."""
    weight = next(causal.parameters())
    needs_gpu = "flash" in str(getattr(causal.config.get_text_config(), "_attn_implementation", ""))
    if not needs_gpu or weight.device.type != "cpu" or not torch.cuda.is_available():
        yield
        return
    causal.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    try:
        yield
    finally:
        causal.to("cpu")


def ordinary_rows(causal: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> "Tensor":
    """Make two rows of ordinary tokens, none twice: ids [2, LENGTH]."""
    config = causal.config
    reserved = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for settings in (config, config.get_text_config()):  # a placeholder of an image, say
        reserved |= {
            value
            for name, value in vars(settings).items()
            if name.endswith(("token_id", "token_index")) and isinstance(value, int)
        }
    num_rows = num_embeddings(causal)
    # Spread over the vocabulary, so that their embeddings are not all of rare tokens or of bytes.
    step = max(1, num_rows // 1009)
    spread = [*range(0, num_rows, step), *range(num_rows)]
    ordinary = list(dict.fromkeys(number for number in spread if number not in reserved))
    taken = (ordinary * 2 * LENGTH)[: 2 * LENGTH]
    return torch.tensor(taken, device=next(causal.parameters()).device).view(2, LENGTH)


def _compare(causal: "PreTrainedModel", rows: "Tensor") -> Capabilities | None:
    """Compare our ways with the model's own forward on these rows [2, LENGTH].

    Returns:
        None where the model's own forward gives no finite numbers.
    """
    backbone = get_backbone(causal)
    seen = list[Any]()
    hook = backbone.register_forward_hook(lambda module, given, output: seen.append(output))
    try:
        logits = causal(input_ids=rows, use_cache=False).logits
    finally:
        hook.remove()
    if not torch.isfinite(logits).all():
        return None
    # Where the model's forward does not call its layers as a module, they are called here.
    output = seen[-1] if seen else _run_layers(backbone, rows, torch.ones_like(rows))
    alone = output.last_hidden_state  # [2, LENGTH, d]

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
        head=_head(causal, alone, logits),
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


def _is_packed(backbone: Any, rows: "Tensor", alone: "Tensor") -> bool:
    """Say whether two rows laid end to end are what they are alone."""
    places = torch.arange(LENGTH, device=rows.device).repeat(2)
    packed = _run_layers(backbone, rows.view(1, -1), None, places[None]).last_hidden_state
    return _same(packed[0, :LENGTH], alone[0]) and _same(packed[0, LENGTH:], alone[1])


def _is_continued(backbone: Any, rows: "Tensor", padded: Any, alone: "Tensor") -> bool:
    """Say whether the row that is padded on the left goes on as it would alone, once the others
    have left the cache."""
    cache = padded.past_key_values
    cache.batch_select_indices(torch.tensor([1], device=rows.device))
    mask = rows.new_ones(1, LENGTH + 1)
    mask[0, : LENGTH - SHORT] = 0
    next_id = rows[:1, SHORT : SHORT + 1]
    places = rows.new_full((1, 1), SHORT)
    output = _run_layers(backbone, next_id, mask, places, use_cache=True, past_key_values=cache)
    return _same(output.last_hidden_state[0], alone[0, SHORT : SHORT + 1])


def _run_layers(
    backbone: Any,
    ids: "Tensor",
    mask: "Tensor | None",
    places: "Tensor | None" = None,
    use_cache: bool = False,
    **given: object,
) -> Any:
    """Call a model's layers as a pass of ours does: ids [B, T] -> an output with last hidden states
    [B, T, d]."""
    if places is None and mask is not None:
        places = (mask.cumsum(-1) - 1).clamp(min=0)
    return backbone(
        input_ids=ids, attention_mask=mask, position_ids=places, use_cache=use_cache, **given
    )


def _head(causal: Any, hidden: "Tensor", logits: "Tensor") -> Any:
    """Say by which way these hidden states [B, T, d] become these logits: those of each position,
    or a classifier's."""
    if hasattr(causal, "score"):
        return "known" if _same(causal.score(hidden)[:, -1], logits) else "none"
    states, logits = hidden.flatten(0, 1), logits.flatten(0, 1)
    if _attempt(lambda: _same(known_logits(causal, states), logits), False):
        return "known"
    return "own" if _attempt(lambda: _same(own_logits(causal, states), logits), False) else "none"


def _attempt(compare: Callable[[], T], otherwise: T) -> T:
    """Return what a comparison gives, or `otherwise` where the model fails at it."""
    try:
        return compare()
    except Exception as error:  # a forward of others may fail in any way
        if is_of_memory(error):
            raise
        return otherwise


def is_of_memory(error: Exception) -> bool:
    """Say whether a pass failed for want of memory, which tells nothing of the model."""
    return any(sign in f"{type(error).__name__} {error}".lower() for sign in NO_MEMORY)


def _same(found: "Tensor", expected: "Tensor") -> bool:
    """Say whether vectors [n, d] are the same but for rounding, each measured by the length of what
    it should be.

    Half precision has noise of the tolerance's size, and a mixture of experts may send a single
    token elsewhere for it: there half of all positions must be close. In fp32 all must, for what is
    systematically wrong may be wrong in few.
    """
    if found.shape != expected.shape:
        return False
    is_half = torch.finfo(expected.dtype).bits < 32
    found, expected = found.double(), expected.double()
    distances = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)
    return bool(distances.median() <= CLOSE_HALF) if is_half else bool(distances.max() <= CLOSE)


def _folder() -> Path:
    return (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unteach" / "capabilities"
    )


def _read(key: str) -> Capabilities | None:
    """Read what an earlier run found; whatever else is in the file is ignored."""
    try:
        kept = json_files.read_json(_folder() / f"{key}.json", "what holds of a model")
        found = Capabilities(**kept)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    kinds = {
        "head": str,
        "right_padding": bool,
        "left_padding": bool,
        "packing": bool,
        "continuing": bool,
    }
    is_whole = all(type(value) is kinds[name] for name, value in asdict(found).items())
    return found if is_whole and found.head in ("known", "own", "none") else None


def _write(key: str, found: Capabilities) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        atomic.write_json(_folder() / f"{key}.json", asdict(found))
