"""The Hugging Face engine: length-sorted batches under a token budget, over any number of processes."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unteach.engines.base import Ids, Said, Score, Store
from unteach.engines.processes import ALONE, Processes
from unteach.models.forward import Want

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
    variance = (p * logp.square()).sum(-1) - mean.square()
    return torch.stack([picked, hit, mean, variance], dim=-1)


class HFEngine:
    """A transformers model as an engine. Batch size and process count change no value beyond rounding.

    here: the processes that share the work. store: what was measured before, and where each batch is kept.
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, here: Processes = ALONE, store: Store | None = None
    ):
        self.model, self.tokenizer, self.batch_size, self.here, self.store = model, tokenizer, batch_size, here, store

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
            tensors = self._padded([[*p, *a] for p, a in batch], left=False)
            labels = tensors["input_ids"].new_full(tensors["input_ids"].shape, -100)
            for i, (prompt, answer) in enumerate(batch):
                labels[i, len(prompt) : len(prompt) + len(answer)] = tensors["input_ids"][
                    i, len(prompt) : len(prompt) + len(answer)
                ]
            asked = {
                **tensors,
                "labels": labels,
                "rows": {"asked": (0, len(batch))},
                "weight": labels.new_ones(len(batch)),
            }
            found = self.model(batch=asked, want={"asked": Want(of=statistics)})["asked"]
            pieces = found.value.float().cpu().numpy()
            tokens, ends = found.label.cpu().numpy(), np.cumsum(found.row.bincount(minlength=len(batch)).cpu().numpy())
            return [
                Score(t, v[:, 0], v[:, 1] > 0.5, v[:, 2], v[:, 3])
                for t, v in zip(np.split(tokens, ends[:-1]), np.split(pieces, ends[:-1]), strict=True)
            ]

        return self._measured("score", pairs, lambda pair: len(pair[0]) + len(pair[1]), work, said)

    def generate(
        self, prompts: Sequence[Ids], max_new_tokens: int, said: Said = None, **sampling: Any
    ) -> list[list[int]]:
        """Continues prompts of token ids; the ids of each continuation, up to and without EOS."""
        eos = self.tokenizer.eos_token_id

        def work(batch: list[Ids]) -> list[list[int]]:
            tensors = self._padded([list(prompt) for prompt in batch], left=True)
            made = self.model.generate(
                **tensors, max_new_tokens=max_new_tokens, pad_token_id=self.tokenizer.pad_token_id, eos_token_id=eos,
                **{"do_sample": False, **sampling},
            )  # fmt: skip
            rows = made[:, tensors["input_ids"].shape[1] :].tolist()
            return [row[: row.index(eos)] if eos in row else row for row in rows]

        kind = f"generate {json.dumps([max_new_tokens, eos, sampling], sort_keys=True)}"
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
