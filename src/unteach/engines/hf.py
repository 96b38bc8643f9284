"""The Hugging Face engine: length-sorted batches under a token budget, over any number of processes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unteach.engines.base import Gather, Ids, Score
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

    gather: collects a list from every process (None: one process).
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, rank: int = 0, world: int = 1, gather: Gather | None = None
    ):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.rank, self.world, self.gather = rank, world, gather

    def _over_ranks(
        self, items: Sequence[Any], length: Callable[[Any], int], work: Callable[[list[Any]], list[Any]]
    ) -> list[Any]:
        """Sorts items by length, deals batches to the processes, and gives all results in the items' own order."""
        import torch

        order = sorted(range(len(items)), key=lambda i: -length(items[i]))
        batches, current = [], list[int]()
        for i in order:
            widest = length(items[current[0]]) if current else 0
            if current and (len(current) == self.batch_size or widest * (len(current) + 1) > TOKENS_PER_BATCH):
                batches.append(current)
                current = []
            current.append(i)
        batches += [current] if current else []
        was_training = self.model.training
        self.model.eval()
        found: list[tuple[int, Any]] = []
        with torch.no_grad():
            for batch in batches[self.rank :: self.world]:
                found += zip(batch, work([items[i] for i in batch]), strict=True)
        self.model.train(was_training)
        results: list[Any] = [None] * len(items)
        for i, result in self.gather(found) if self.gather else found:
            results[i] = result
        return results

    def score(self, pairs: Sequence[tuple[Ids, Ids]], said: Callable[[int], None] | None = None) -> list[Score]:
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
            if said:
                said(len(batch))
            return [
                Score(t, v[:, 0], v[:, 1] > 0.5, v[:, 2], v[:, 3])
                for t, v in zip(np.split(tokens, ends[:-1]), np.split(pieces, ends[:-1]), strict=True)
            ]

        return self._over_ranks(pairs, lambda pair: len(pair[0]) + len(pair[1]), work)

    def generate(
        self, prompts: Sequence[Ids], max_new_tokens: int, said: Callable[[int], None] | None = None, **sampling: Any
    ) -> list[list[int]]:
        """Continues prompts of token ids; the ids of each continuation, up to and without EOS."""
        eos = self.tokenizer.eos_token_id

        def work(batch: list[Ids]) -> list[list[int]]:
            tensors = self._padded([list(prompt) for prompt in batch], left=True)
            made = self.model.generate(
                **tensors, max_new_tokens=max_new_tokens, pad_token_id=self.tokenizer.pad_token_id, eos_token_id=eos,
                **{"do_sample": False, **sampling},
            )  # fmt: skip
            if said:
                said(len(batch))
            rows = made[:, tensors["input_ids"].shape[1] :].tolist()
            return [row[: row.index(eos)] if eos in row else row for row in rows]

        return self._over_ranks(prompts, len, work)

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
