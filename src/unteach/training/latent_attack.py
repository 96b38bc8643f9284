"""Find the vectors that LAT's adversary adds to a module's output, and hold them there."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from unteach.data.batches import Batch, select_streams
from unteach.data.truncation import IGNORED
from unteach.errors import UserError
from unteach.lazy import torch
from unteach.methods.wrap.perturb import LAT
from unteach.models.layer_names import EMBEDDING, LAST, find_modules
from unteach.models.layers import unwrap_model
from unteach.training.step import normalized_sum

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


def find_module(model: "PreTrainedModel", pattern: str) -> "Module":
    """Find the one module of a layer that a name (models/layer_names.py) or a regex means.

    Raises:
        UserError: where it means none, or several.
    """
    addresses = find_modules(unwrap_model(model), pattern)
    is_in_layer = all(address.name not in (EMBEDDING, LAST) for address in addresses)
    layer = addresses[0].layer
    if len(addresses) != 1 or not is_in_layer or layer is None:
        raise UserError(
            f"trainer.perturb.module={pattern!r} means {len(addresses)} modules of this model; it "
            "must mean one, a layer or inside a layer, such as layers.7.mlp"
        )
    return layer.layers[layer.index].get_submodule(addresses[0].inner)


class LatentAttack:
    """Adds vectors to a module's output at the prompt tokens of the forget rows.

    The module keeps its hook, and what is added stays until it is replaced: with gradient
    checkpointing the module is run again in the backward pass, and must give the same.

    Args:
        attack: its settings.
        model: the policy, not wrapped.
    """

    def __init__(self, attack: LAT, model: "PreTrainedModel"):
        self.attack = attack
        self._added: Tensor | None = None  # [B, T, d]
        self._is_real: Tensor | None = None  # [B, T]
        self._width = 0
        module = find_module(model, attack.module)
        self._hook = module.register_forward_hook(self._add_to_output)

    def remove(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()

    def _add_to_output(
        self, module: "Module", inputs: object, output: "Tensor | tuple[Any, ...]"
    ) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        self._width = hidden.shape[-1]
        if self._added is None or self._is_real is None:
            return output
        added = self._added
        if hidden.shape[:2] != added.shape[:2]:  # rows without padding, end to end
            added = added[self._is_real][None]
        if hidden.shape != added.shape:
            raise UserError(
                "trainer.perturb=LAT: the rows of a batch go through this model in several passes, "
                "or its module gives no vector a token; LAT needs one pass and one vector a token"
            )
        moved = hidden + added.to(hidden.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    @contextlib.contextmanager
    def suspend(self) -> Iterator[None]:
        """Add nothing meanwhile."""
        before, self._added = self._added, None
        try:
            yield
        finally:
            self._added = before

    @contextlib.contextmanager
    def hold(self, batch: Batch, delta: "Tensor") -> Iterator[None]:
        """Add the vectors in every pass over `batch` meanwhile, its backward pass included.

        Args:
            batch: rows of the forget side.
            delta: [B, P, d], the vectors of each row's prompt tokens; rows of streams that stand
                beside one another have the same.
        """
        row, column, place, owner = _find_prompt_tokens(batch)
        shape = (*batch["input_ids"].shape, delta.shape[-1])
        vectors = delta[owner, place]
        added = delta.new_zeros(shape).index_put((row, column), vectors)
        self._added, self._is_real = added, batch["attention_mask"].bool()
        try:
            yield
        finally:
            self._added = None

    def find_vectors(
        self,
        batch: Batch,
        model: "Module",
        counts: "dict[str, Tensor]",
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> "Tensor":
        """Find the vectors that lower the adversary's loss on a micro-batch: [B, P, d].

        A row's loss depends on its own vectors alone and is divided by the counts of the whole
        step, so that the vectors do not depend on how the rows are split.

        Args:
            batch: rows of the forget side, of which a pass was made before.
            model: the policy, wrapped.
        """
        if not self._width:
            raise UserError(
                f"trainer.perturb.module={self.attack.module}: the method's forget passes end "
                "below that module, so that nothing is moved; name one that they reach"
            )
        wants = self.attack.wants()
        asked = select_streams(batch, list(wants))
        _, _, place, owner = _find_prompt_tokens(batch)
        if not len(place):
            raise UserError(
                "trainer.perturb=LAT moves the prompt tokens of forget rows, and these rows have "
                "none: their text is learned from its first token"
            )
        num_rows, num_places = int(owner.max()) + 1, int(place.max()) + 1
        delta = torch.zeros(
            num_rows, num_places, self._width, device=place.device, requires_grad=True
        )
        optimizer = torch.optim.AdamW(
            [delta], lr=self.attack.lr, weight_decay=self.attack.weight_decay
        )
        for _ in range(self.attack.steps):
            with self.hold(asked, delta):
                with autocast():
                    policy = model(batch=asked, want=wants)
                    loss = torch.zeros((), device=delta.device)
                    for term in self.attack.terms(policy):
                        assert term.factor is not None, "no term of it is only logged"
                        loss = loss + term.factor * normalized_sum(term, counts)
                # Of the vectors alone: no gradient of a weight is computed.
                (delta.grad,) = torch.autograd.grad(loss, [delta])
            optimizer.step()
            with torch.no_grad():
                length = delta.norm(dim=-1, keepdim=True)
                delta.mul_((self.attack.epsilon / length.clamp(min=1e-12)).clamp(max=1))
        return delta.detach()


def _find_prompt_tokens(batch: Batch) -> "tuple[Tensor, Tensor, Tensor, Tensor]":
    """Find the prompt tokens of a batch: those before a row's first label.

    Returns:
        For each, its row and column in the batch, its place in the prompt, and its row's number in
        its own stream.
    """
    is_real = batch["attention_mask"].bool()
    has_begun = (batch["labels"] != IGNORED).cumsum(-1) > 0
    is_prompt = is_real & ~has_begun
    row, column = is_prompt.nonzero(as_tuple=True)
    place = (is_prompt.cumsum(-1) - 1)[is_prompt]
    number_in_stream = torch.zeros(len(is_real), dtype=torch.long, device=row.device)
    for start, stop in batch["rows"].values():
        number_in_stream[start:stop] = torch.arange(stop - start, device=row.device)
    return row, column, place, number_in_stream[row]
