"""What a model computes over the prompts of rows: the inputs of a layer's modules, and its states.

Only prompts of one length go through the model together. So nothing is padded, and all that a
module gets is tokens of prompts, however the rows go through the model.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.data.batches import Batch, iterate_batches, move_to_device
from unteach.data.examples import Example, read_prompt
from unteach.data.streams import Stream
from unteach.data.truncation import IGNORED
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.edit.base import EditContext
from unteach.models.forward import OutputSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Prompts(list[Example]):
    """Examples of prompts, as a dataset of a stream; the last token of each is its label."""


def refuse_no_prompts(stream: Stream) -> None:
    """Raise UserError where a row of a stream asks nothing. Rows without tokens yet are passed
    over."""
    for row_index in stream.list_tokenized_rows():
        if not read_prompt(stream.example(row_index)):
            raise UserError(
                f"data.{stream.name}: {stream.locate(row_index)} is learned from its first token: "
                "it asks nothing, and this method edits by what is asked; give rows of a question "
                "and its answer"
            )


def iterate_prompts(context: EditContext, stream_name: str) -> Iterator[Batch]:
    """Iterate over the prompts of all rows of a stream, without their answers and without padding,
    on the model's device. The last token of each has a label."""
    stream = context.streams[stream_name]
    refuse_no_prompts(stream)
    prompts_by_length: dict[int, Prompts] = {}
    for row_index in range(len(stream)):
        ids = read_prompt(stream.example(row_index))
        labels = [IGNORED] * (len(ids) - 1) + ids[-1:]
        prompt: Example = {"input_ids": ids, "labels": labels, "index": row_index}
        prompts_by_length.setdefault(len(ids), Prompts()).append(prompt)

    device = next(context.model.parameters()).device
    for _, prompts in sorted(prompts_by_length.items()):
        draws = [(row_index, 0) for row_index in range(len(prompts))]
        same_length = Stream(stream_name, [prompts])
        for batch in iterate_batches(same_length, draws, context.batch_size, context.collator):
            if not bool((batch["attention_mask"] == 1).all()):
                raise UserError(
                    "collator: pads rows that are all of one length; this edit sums over every "
                    "token that a layer gets, and takes a collator that does not"
                )
            yield move_to_device(batch, device)


@contextlib.contextmanager
def record_inputs(module: "Module") -> Iterator["list[Tensor]"]:
    """Record what a module gets meanwhile: [N, inputs] of each call, a row for each token."""
    inputs: list[Tensor] = []

    def record(_: "Module", args: tuple[Any, ...]) -> None:
        inputs.append(args[0].detach().flatten(0, -2))

    hook = module.register_forward_pre_hook(record)
    try:
        yield inputs
    finally:
        hook.remove()


@dataclass
class PromptStatistics:
    """Sums over the prompts of a stream, in fp64.

    Attributes:
        gram: sum of x x' over all tokens, x what the module gets: [inputs, inputs].
        input_sum: sum of x over all tokens: [inputs].
        state_sum: sum over prompts of the layer's state at the last token: [d].
        num_tokens: of all prompts.
        num_prompts: prompts.
    """

    gram: "Tensor"
    input_sum: "Tensor"
    state_sum: "Tensor"
    num_tokens: int = 0
    num_prompts: int = 0

    @property
    def mean_state(self) -> "Tensor":
        """The mean of the layer's states at the last token of a prompt: [d]."""
        return self.state_sum / self.num_prompts


def compute_states(context: EditContext, batch: Batch, stream_name: str, layer: str) -> "Tensor":
    """Compute a layer's states at the last token of each prompt of a batch: [B, d]. The pass ends
    there.

    Args:
        layer: a regex of its name.
    """
    spec = OutputSpec(fn=None, positions="labels", layer=layer)
    with torch.no_grad(), context.loaded.autocast():
        outputs = context.model(batch=batch, want={stream_name: spec})[stream_name]
    states: Tensor = outputs.value
    return states


def compute_statistics(
    context: EditContext, stream_name: str, layer: str, module: "Module"
) -> PromptStatistics:
    """Compute the sums over a stream's prompts of what a module of a layer gets, and of the layer's
    last states. Neither they nor the fit on them depend on the batch size.

    Args:
        layer: a regex of its name.
        module: a linear layer in it.
    """
    weight: Any = module.weight  # [d, inputs]
    width, num_inputs = weight.shape
    sums = PromptStatistics(
        gram=weight.new_zeros(num_inputs, num_inputs, dtype=torch.float64),
        input_sum=weight.new_zeros(num_inputs, dtype=torch.float64),
        state_sum=weight.new_zeros(width, dtype=torch.float64),
    )
    for batch in iterate_prompts(context, stream_name):
        with record_inputs(module) as inputs:
            states = compute_states(context, batch, stream_name, layer)  # [B, d]
        sums.state_sum += states.double().sum(0)
        sums.num_prompts += len(states)
        for x in inputs:  # [N, inputs]
            exact = x.double()
            sums.gram += exact.T @ exact
            sums.input_sum += exact.sum(0)
            sums.num_tokens += len(exact)
    if not bool(torch.isfinite(sums.gram).all() and torch.isfinite(sums.state_sum).all()):
        raise UserError(
            f"what {layer} computes over data.{stream_name} is not finite; nothing was edited. "
            "Compute in another dtype (model.model_args.dtype)"
        )
    return sums
