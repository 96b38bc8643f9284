"""The one forward: what every pass over a model is asked for, and how it is answered.

`extend` gives a model's own `forward` one more keyword, `want=`, before anything wraps the model. A pass with it runs
the backbone once over all streams of a batch, picks the positions that are asked about, and applies the head to them
in chunks, so that no [batch, length, vocabulary] tensor exists. Without it the forward is the library's.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
CHUNK_ELEMENTS = 1 << 24
"""Entries of one chunk of logits: 64 MiB in fp32."""


def logprob(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """log p(label) at each position: [n, V], [n] -> [n]."""
    picked = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return picked - logits.logsumexp(-1)


@dataclass(frozen=True)
class Want:
    """What a pass should yield for one stream.

    of: (logits [n, V] in fp32, labels [n], *extra [n, …]) -> [n, …], computed chunk by chunk; None yields the last
        hidden states [n, d] instead.
    over: `answer`: positions whose next token is a label; `all`: positions whose next token is no padding;
        `every`: all positions up to the stream's longest row, padding and the last one too (label -100 where there
        is none).
    extra: tensors with one entry a position that `of` gets along.
    """

    of: "Callable[..., Tensor] | None" = logprob
    over: Literal["answer", "all", "every"] = "answer"
    extra: "tuple[Tensor, ...]" = ()


@dataclass
class Answers:
    """What a pass says about one stream: one entry a position, in the order of rows and tokens.

    value [N, …]; label [N], the token that follows; row [N], whose position it is; weight [B], 0 for filler rows.
    """

    value: "Tensor"
    label: "Tensor"
    row: "Tensor"
    weight: "Tensor"

    def per_row(self, value: "Tensor | None" = None) -> "Tensor":
        """Sums over the positions of each row: [N] -> [B]."""
        value = self.value if value is None else value
        return value.new_zeros(len(self.weight)).index_add(0, self.row, value)

    def lengths(self) -> "Tensor":
        """Positions of each row: [B]."""
        import torch

        return self.per_row(torch.ones_like(self.row, dtype=self.weight.dtype))


def positions(batch: dict[str, Any], rows: tuple[int, int], over: str) -> "tuple[Tensor, Tensor, Tensor]":
    """Where a stream is asked: (flat position in the batch [N], the label that follows [N], row in the stream [N])."""
    import torch

    start, stop = rows
    ids, mask = batch["input_ids"][start:stop], batch["attention_mask"][start:stop]
    labels = batch["labels"][start:stop] if over != "all" else ids.masked_fill(mask == 0, IGNORED)
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    asked = within(mask) if over == "every" else following != IGNORED
    if over == "all":  # a row's first token may follow left padding, which predicts nothing
        asked = asked & (mask == 1)
    row, column = asked.nonzero(as_tuple=True)
    return (row + start) * ids.shape[1] + column, following[asked], row


def within(mask: "Tensor") -> "Tensor":
    """All positions up to the stream's own longest row, padding included: [B, T] -> bool [B, T]."""
    return mask.bool().any(0).expand(mask.shape)


def extend(model: Any) -> Any:
    """Gives `model.forward` the keyword `want: dict[stream, Want]`; returns the model.

    With it, forward(batch=…, want=…) -> dict[stream, Answers], where batch holds input_ids, attention_mask, labels,
    weight and `rows`, the slice of each stream.
    """
    plain = model.forward

    @functools.wraps(plain)
    def forward(*args: Any, want: dict[str, Want] | None = None, batch: Any = None, **kwargs: Any) -> Any:
        if want is None:
            return plain(*args, **kwargs)
        return _answer(model, batch, want)

    model.forward = forward
    return model


def _answer(model: Any, batch: dict[str, Any], want: dict[str, Want]) -> dict[str, Answers]:
    first = min(batch["rows"][stream][0] for stream in want)
    last = max(batch["rows"][stream][1] for stream in want)
    hidden = _hidden(model, batch["input_ids"][first:last], batch["attention_mask"][first:last])
    hidden = hidden.flatten(0, 1)
    offset = first * batch["input_ids"].shape[1]
    answers = {}
    for stream, asked in want.items():
        rows = batch["rows"][stream]
        where, label, row = positions(batch, rows, asked.over)
        picked = hidden[where - offset]
        value = picked if asked.of is None else through_head(lambda h: head_logits(model, h), asked, picked, label)
        answers[stream] = Answers(value, label, row, batch["weight"][rows[0] : rows[1]])
    return answers


def _hidden(model: Any, input_ids: "Tensor", attention_mask: "Tensor") -> "Tensor":
    """The last hidden states [B, T, d]; positions count from each row's first real token, whichever side is padded."""
    import torch

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    leading = (attention_mask.cumsum(-1) == 0).sum(-1, keepdim=True)
    position_ids = (torch.arange(input_ids.shape[1], device=input_ids.device) - leading).clamp(min=0)
    return causal.base_model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
    ).last_hidden_state


def through_head(logits_of: "Callable[[Tensor], Tensor]", want: Want, hidden: "Tensor", label: "Tensor") -> "Tensor":
    """Applies head and `want.of` to hidden states [N, d] in chunks, recomputed in the backward pass if several."""
    import torch
    from torch.utils.checkpoint import checkpoint

    def one(h: "Tensor", y: "Tensor", *extra: "Tensor") -> "Tensor":
        assert want.of is not None
        return want.of(logits_of(h).float(), y, *extra)

    vocabulary = max(1, _vocabulary(logits_of, hidden))
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    if len(hidden) <= size:
        return one(hidden, label, *want.extra)
    pieces = zip(*(tensor.split(size) for tensor in (hidden, label, *want.extra)), strict=True)
    run = functools.partial(checkpoint, one, use_reentrant=False) if torch.is_grad_enabled() else one
    return torch.cat([run(*piece) for piece in pieces])


def _vocabulary(logits_of: "Callable[[Tensor], Tensor]", hidden: "Tensor") -> int:
    import torch

    with torch.no_grad():
        return logits_of(hidden[:1]).shape[-1] if len(hidden) else 1


def head_logits(model: Any, hidden: "Tensor") -> "Tensor":
    """The logits [n, V] that the model's own forward would give for these hidden states."""
    import torch

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = causal.config
    logits = causal.get_output_embeddings()(hidden)
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
