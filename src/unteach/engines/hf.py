"""The Hugging Face engine: length-sorted batches under a token budget, over any number of processes."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unteach.engines.base import Ids, Said, Score, Store
from unteach.engines.processes import ALONE, Processes
from unteach.models.forward import IGNORED, Answers, Want

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_PER_BATCH = 16384
"""Padded tokens of one scoring batch at most, whatever batch_size allows."""


def statistics(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """[n, V], [n] -> [n, 4]: log p of the label, argmax hit, mean and variance of log p over the vocabulary under p."""
    import torch

    logp = logits.log_softmax(-1)
    p = logp.exp()
    picked = logp.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    hit = (logits.argmax(-1) == labels).to(logp.dtype)
    mean = (p * logp).sum(-1)
    variance = (p * (logp - mean.unsqueeze(-1)).square()).sum(-1)  # not E[x²] - E[x]², which cancels
    return torch.stack([picked, hit, mean, variance], dim=-1)


class HFEngine:
    """A transformers model as an engine. Batch size and process count change no value beyond rounding.

    here: the processes that share the work. store: what was measured before, and where each batch is kept.
    stops: the ids at which a continuation is over; without them, the tokenizer's end of sequence.
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, here: Processes = ALONE, store: Store | None = None,
        stops: Sequence[int] = (),
    ):  # fmt: skip
        self.model, self.tokenizer, self.batch_size, self.here, self.store = model, tokenizer, batch_size, here, store
        self.stops = list(stops) or [tokenizer.eos_token_id]

    def _measured(
        self,
        kind: str,
        items: Sequence[Any],
        length: Callable[[Any], int],
        work: Callable[[list[Any]], list[Any]],
        said: Said,
    ) -> list[Any]:
        """All results in the items' own order: those in the store, and the others batch by batch over the processes."""
        results = [self.store.get(kind, item) if self.store else None for item in items]
        missing = [i for i, result in enumerate(results) if result is None]
        if self.here.gather:  # what any process lacks is measured again, so that all plan the same batches
            missing = sorted(set(self.here.gather(missing)))
        if said and len(items) > len(missing):
            said(len(items) - len(missing))
        batches = self._batches(missing, items, length)
        was_training = self.model.training
        self.model.eval()
        found: list[tuple[int, Any]] = []
        try:
            for first in range(0, len(batches), self.here.world):
                self.here.pause_point()
                if first + self.here.rank < len(batches):
                    batch = batches[first + self.here.rank]
                    found += zip(batch, self._one(kind, [items[i] for i in batch], work, said), strict=True)
        finally:
            self.model.train(was_training)
        for i, result in self.here.gather(found) if self.here.gather else found:
            results[i] = result
        return results

    def _one(self, kind: str, batch: list[Any], work: Callable[[list[Any]], list[Any]], said: Said) -> list[Any]:
        import torch

        with torch.no_grad():
            results = work(batch)
        if self.store:
            self.store.put(kind, batch, results)
        if said:
            said(len(batch) * self.here.world)
        return results

    def _batches(self, missing: list[int], items: Sequence[Any], length: Callable[[Any], int]) -> list[list[int]]:
        """Longest first, at most batch_size items and TOKENS_PER_BATCH padded tokens each."""
        batches, current = [], list[int]()
        for i in sorted(missing, key=lambda i: -length(items[i])):
            widest = length(items[current[0]]) if current else 0
            if current and (len(current) == self.batch_size or widest * (len(current) + 1) > TOKENS_PER_BATCH):
                batches.append(current)
                current = []
            current.append(i)
        return batches + ([current] if current else [])

    def score(self, pairs: Sequence[tuple[Ids, Ids]], said: Said = None) -> list[Score]:
        """Scores (prompt, answer) pairs of token ids: one teacher-forced pass, the head on answer positions only."""

        def work(batch: list[tuple[Ids, Ids]]) -> list[Score]:
            found = self._answers(batch, Want(of=statistics))
            pieces = found.value.float().cpu().numpy()
            tokens, ends = found.label.cpu().numpy(), np.cumsum(found.row.bincount(minlength=len(batch)).cpu().numpy())
            return [
                Score(t, v[:, 0], v[:, 1] > 0.5, v[:, 2], v[:, 3])
                for t, v in zip(np.split(tokens, ends[:-1]), np.split(pieces, ends[:-1]), strict=True)
            ]

        return self._measured("score", pairs, _tokens, work, said)

    def grad_norms(self, pairs: Sequence[tuple[Ids, Ids]], p: float, said: Said = None) -> list[float]:
        """Of each (prompt, answer), the mean over the parameter tensors of |grad avg_loss|_p; no `.grad` is touched.

        One backward pass a pair: a batch only says how often the results are kept and the processes look up.
        """
        import torch

        def norm(pair: tuple[Ids, Ids], weights: "list[Tensor]") -> "Tensor":
            loss = -self._answers([pair], Want()).value.mean()
            found = torch.autograd.grad(loss, weights, allow_unused=True)
            return torch.stack([g.float().norm(p) for g in found if g is not None]).mean()

        def work(batch: list[tuple[Ids, Ids]]) -> list[float]:
            torch.clear_autocast_cache()  # older torch reuses casts made without gradients, which hide the weights
            with torch.enable_grad(), _requiring_grad(self.model) as weights:
                return torch.stack([norm(pair, weights) for pair in batch]).tolist()

        return self._measured(f"grad_norms {float(p)}", pairs, _tokens, work, said)

    def _answers(self, pairs: list[tuple[Ids, Ids]], want: Want) -> Answers:
        """One teacher-forced pass over a batch of (prompt, answer), asked about the positions of the answers."""
        tensors = self._padded([[*p, *a] for p, a in pairs], left=False)
        labels = tensors["input_ids"].new_full(tensors["input_ids"].shape, IGNORED)
        for i, (prompt, answer) in enumerate(pairs):
            there = slice(len(prompt), len(prompt) + len(answer))
            labels[i, there] = tensors["input_ids"][i, there]
        rows, weight = {"asked": (0, len(pairs))}, labels.new_ones(len(pairs))
        batch = {**tensors, "labels": labels, "rows": rows, "weight": weight}
        answers: Answers = self.model(batch=batch, want={"asked": want})["asked"]
        return answers

    def generate(
        self, prompts: Sequence[Ids], max_new_tokens: int, said: Said = None, **sampling: Any
    ) -> list[list[int]]:
        """Continues prompts of token ids; the ids of each continuation, up to and without a stop."""

        def work(batch: list[Ids]) -> list[list[int]]:
            tensors = self._padded([list(prompt) for prompt in batch], left=True)
            made = self.model.generate(
                **tensors, max_new_tokens=max_new_tokens, pad_token_id=self.tokenizer.pad_token_id, eos_token_id=self.stops,
                **{"do_sample": False, **sampling},
            )  # fmt: skip
            rows = made[:, tensors["input_ids"].shape[1] :].tolist()
            ends = [next((i for i, token in enumerate(row) if token in self.stops), len(row)) for row in rows]
            return [row[:end] for row, end in zip(rows, ends, strict=True)]

        settings = self.model.generation_config.to_diff_dict()  # a model's own file of them may change what it says
        kind = f"generate {json.dumps([max_new_tokens, self.stops, sampling, settings], sort_keys=True, default=str)}"
        return self._measured(kind, prompts, len, work, said)

    def _padded(self, rows: list[list[int]], left: bool) -> "dict[str, Tensor]":
        import torch

        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id

        def fill(row: list[int], filler: int) -> list[int]:
            padding = [filler] * (longest - len(row))
            return padding + row if left else row + padding

        device = next(self.model.parameters()).device
        return {
            "input_ids": torch.tensor([fill(row, pad) for row in rows], device=device),
            "attention_mask": torch.tensor([fill([1] * len(row), 0) for row in rows], device=device),
        }


def _tokens(pair: tuple[Ids, Ids]) -> int:
    return len(pair[0]) + len(pair[1])


@contextlib.contextmanager
def _requiring_grad(model: Any) -> "Iterator[list[Tensor]]":
    """All parameters, each of which requires a gradient meanwhile, whether or not it is being trained."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield weights
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
