"""The Hugging Face engine: length-sorted batches under a token budget, over any number of
processes."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unteach.config.inference import DRAWN
from unteach.distributed.process_context import SINGLE_PROCESS, DistContext
from unteach.engines import generation, prompt_sharing
from unteach.engines.base import Ids, ProgressCallback, Score, Store
from unteach.engines.batching import BatchPlanner, BatchRunner, Row, device
from unteach.engines.generation import ContinuousBatching
from unteach.engines.prompt_sharing import Pair, Tree
from unteach.engines.sampling import SeededSampler, build_warpers
from unteach.lazy import torch
from unteach.models.forward import IGNORED, OutputSpec, TokenOutputs
from unteach.models.layers import unwrap_model
from unteach.seeds import subseed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


BLOCK = 1 << 18
"""Logits that a CPU looks at in one go: what is made of them stays in its cache."""


def statistics(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """[n, V], [n] -> [n, 4]: log p of the label, argmax hit, mean and variance of log p over the
    vocabulary under p."""
    rows = max(1, BLOCK // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    if len(logits) > rows:
        return torch.cat(
            [
                statistics(*block)
                for block in zip(logits.split(rows), labels.split(rows), strict=True)
            ]
        )
    top, p = logits.amax(-1), logits.softmax(-1)
    # of the likeliest; what any other entry adds to it is how far its logit lies below `top`
    off = p.amax(-1).log()
    below = logits - top.unsqueeze(-1)
    picked = below.gather(-1, labels.unsqueeze(-1)).squeeze(-1) + off
    mean = torch.linalg.vecdot(p, below)
    below -= mean.unsqueeze(-1)
    variance = torch.linalg.vecdot(below * p, below)  # not E[x²] - E[x]², which cancels
    return torch.stack([picked, _hits(logits, labels, top, p), mean + off, variance], dim=-1)


def _hits(logits: "Tensor", labels: "Tensor", top: "Tensor", p: "Tensor") -> "Tensor":
    """Where the label is the argmax: [n, V], [n], the highest logit [n], softmax (which is spoilt)
    -> 0 or 1 [n].

    An argmax costs as much as all else here, and is asked for only where another entry may be as
    high as the label's.
    """
    at = labels.unsqueeze(-1)
    hit = (logits.gather(-1, at).squeeze(-1) == top).to(logits.dtype)
    own = p.gather(-1, at).squeeze(-1)
    tied = ((p.scatter_(-1, at, -1.0).amax(-1) >= own) & (hit > 0)).nonzero().squeeze(-1)
    hit[tied] = (logits[tied].argmax(-1) == labels[tied]).to(logits.dtype)
    return hit


def get_context_length(model: "PreTrainedModel") -> int | None:
    """How many tokens a model can read."""
    found = getattr(unwrap_model(model).config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


class HFEngine(BatchRunner):
    """A transformers model as an engine. Batch size and process count change no value beyond
    rounding.

    stops: the ids at which a continuation is over; without them, the tokenizer's end of sequence.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_size: int | None = None,
        dist: DistContext = SINGLE_PROCESS,
        store: Store | None = None,
        stops: Sequence[int] = (),
    ):
        super().__init__(model, batch_size, dist, store)
        self.tokenizer, self.stops = tokenizer, list(stops) or [tokenizer.eos_token_id]
        self._shares: list[int | None] = []

    @property
    def context(self) -> int | None:
        return get_context_length(self.model)

    def budget(self, what: str) -> int:
        first = (
            generation.compute_token_budget(self.model, device()) if what == "generate" else None
        )
        return self.budgets.get(what) or first or super().budget(what)

    def score(self, pairs: Sequence[Pair], on_progress: ProgressCallback = None) -> list[Score]:
        """Scores (prompt, answer) pairs of token ids: one teacher-forced pass, the head on answer
        positions only."""
        return self._measured("score", *self.scoring(pairs), on_progress)

    def scoring(
        self, pairs: Sequence[Pair]
    ) -> tuple[BatchPlanner, Callable[[list[Row]], list[Score]]]:
        """How pairs are batched for their scores, and what scores a batch."""

        def work(batch: list[Row]) -> list[Score]:
            return self.scored([[pairs[i] for i in row] for row in batch])

        return prompt_sharing.ByPrompt(
            pairs, self.batch_size, self.budget("score"), lambda: self._widest(pairs)
        ), work

    def scored(self, rows: list[list[Pair]]) -> list[Score]:
        """One pass over rows of pairs of one prompt each; a Score for each pair.

        Without a prompt, nothing predicts an answer's first token, and it is not scored.
        """
        rows = [[pair if pair[0] else (pair[1][:1], pair[1][1:]) for pair in row] for row in rows]
        answers = [answer for row in rows for _, answer in row]
        if all(len(row) == 1 for row in rows):
            found = (
                self._answers([row[0] for row in rows], OutputSpec(fn=statistics))
                .value.float()
                .cpu()
                .numpy()
            )
            pieces = np.split(found, np.cumsum([len(answer) for answer in answers])[:-1])
        else:
            pieces = self._shared(
                [row[0][0] for row in rows], [Tree([answer for _, answer in row]) for row in rows]
            )
        return [
            Score(np.array(answer, dtype=np.int64), v[:, 0], v[:, 1] > 0.5, v[:, 2], v[:, 3])
            for answer, v in zip(answers, pieces, strict=True)
        ]

    def _shared(self, prompts: list[Ids], trees: list[Tree]) -> list[np.ndarray]:
        """One pass over rows of a prompt and a tree of answers each; the statistics [n, 4] of every
        answer."""
        tensors = self._pad_rows(
            [[*p, *tree.tokens()] for p, tree in zip(prompts, trees, strict=True)], left=False
        )
        layout = prompt_sharing.layout(
            prompts, trees, tensors["input_ids"].shape[1], next(self.model.parameters())
        )
        labels = tensors["input_ids"].new_full(tensors["input_ids"].shape, IGNORED)
        batch = {
            **tensors,
            "labels": labels,
            "rows": {"asked": (0, len(trees))},
            "weight": labels.new_ones(len(trees)),
        }
        answers = self.model(
            batch={**batch, "shared": layout}, want={"asked": OutputSpec(fn=statistics)}
        )["asked"]
        found = np.split(
            answers.value.float().cpu().numpy(), np.cumsum([len(tree.asked) for tree in trees])[:-1]
        )
        return [
            v[np.array(path) - 1]
            for v, tree in zip(found, trees, strict=True)
            for path in tree.paths
        ]

    def _widest(self, pairs: Sequence[Pair]) -> int | None:
        """How wide a row of several answers may be; None where there are none to share, or the
        model does not take it.

        Two short answers to the first prompt that has several are made up and scored both ways; the
        same in every process.
        """
        first = dict[Ids, Ids]()
        for prompt, answer in pairs:
            if prompt and answer and first.setdefault(prompt, answer) != answer:
                break
        else:
            return None
        if not self._shares:
            widest = prompt_sharing.windows(self.model)
            one = answer[0]
            other = next(token for token in (*prompt, *answer, 0, 1) if token != one)
            two: list[Pair] = [(prompt, (one, other, one)), (prompt, (other, one, other))]
            self._shares = [widest if widest and not self.dist.any(not self._agree(two)) else None]
        return self._shares[0]

    def _agree(self, pairs: list[Pair]) -> bool:
        """Whether a row of two answers gives what each gets alone."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                plain, shared = self.scored([[pair] for pair in pairs]), self.scored([pairs])
        except Exception:  # a model that does not take such a row may fail at it in any way
            return False
        finally:
            self.model.train(was_training)
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        near = (
            prompt_sharing.CLOSE_HALF
            if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
            else None
        )
        near = near or prompt_sharing.CLOSE.get(dtype, prompt_sharing.CLOSE_HALF)
        return all(
            np.allclose(a.logprob, b.logprob, atol=near, rtol=0)
            for a, b in zip(plain, shared, strict=True)
        )

    def grad_norms(
        self, pairs: Sequence[Pair], p: float, on_progress: ProgressCallback = None
    ) -> list[float]:
        """Of each (prompt, answer), the mean over the parameter tensors of |grad avg_loss|_p; no
        `.grad` is touched.

        One backward pass a pair: a batch only says how often the results are kept and the processes
        look up.
        """

        def norm(pair: Pair, weights: "list[Tensor]") -> "Tensor":
            loss = -self._answers([pair], OutputSpec()).value.mean()
            found = torch.autograd.grad(loss, weights, allow_unused=True)
            return torch.stack([g.float().norm(p) for g in found if g is not None]).mean()

        def work(batch: list[Row]) -> list[float]:
            # older torch reuses casts made without gradients, which hide the weights
            torch.clear_autocast_cache()
            with torch.enable_grad(), _requiring_grad(self.model) as weights:
                return torch.stack([norm(pairs[i], weights) for [i] in batch]).tolist()

        kind = f"grad_norms {float(p)}"
        return self._measured(
            kind, self.batching("grad_norms", pairs, prompt_sharing.tokens), work, on_progress
        )

    def _answers(self, pairs: list[Pair], want: OutputSpec) -> TokenOutputs:
        """One teacher-forced pass over a batch of (prompt, answer), asked about the positions of
        the answers."""
        tensors = self._pad_rows([[*p, *a] for p, a in pairs], left=False)
        labels = tensors["input_ids"].new_full(tensors["input_ids"].shape, IGNORED)
        for i, (prompt, answer) in enumerate(pairs):
            there = slice(len(prompt), len(prompt) + len(answer))
            labels[i, there] = tensors["input_ids"][i, there]
        rows, weight = {"asked": (0, len(pairs))}, labels.new_ones(len(pairs))
        batch = {**tensors, "labels": labels, "rows": rows, "weight": weight}
        answers: TokenOutputs = self.model(batch=batch, want={"asked": want})["asked"]
        return answers

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        on_progress: ProgressCallback = None,
        until: Sequence[str] = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> list[list[int]]:
        """Continues prompts of token ids; the ids of each continuation, up to and without a stop.

        until: strings after which no more is asked for; what follows the first of them is not cut
            off. seed: of what is sampled, each prompt by its place, so that nothing depends on how
            prompts are batched.
        """
        # a model's own file of them may change what it says
        settings = self.model.generation_config.to_diff_dict()
        given = [max_new_tokens, self.stops, sampling, settings, *([list(until)] if until else [])]
        given += [] if seed is None else [seed]
        kind = f"generate {json.dumps(given, sort_keys=True, default=str)}"
        batching = self.batching("generate", prompts, lambda prompt: len(prompt) + max_new_tokens)
        # something to do for every process
        batching.most = min(batching.most, -(-len(prompts) // self.dist.world_size))
        cuts = (
            []
            if seed is None
            else build_warpers(**{name: sampling.pop(name) for name in DRAWN if name in sampling})
        )
        if seed is not None:
            sampling["do_sample"] = False  # what is drawn, SeededSampler draws

        def work(batch: list[Row]) -> list[list[int]]:
            draw = (
                None if seed is None else SeededSampler(cuts, [subseed(seed, i) for [i] in batch])
            )
            continuous = ContinuousBatching(
                self, max_new_tokens, list(until), sampling, refuse_non_finite=True
            )
            return continuous.generate([prompts[i] for [i] in batch], draw)

        return self._measured(kind, batching, work, on_progress)

    def _pad_rows(self, rows: list[list[int]], left: bool) -> "dict[str, Tensor]":
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id

        def fill(row: list[int], filler: int) -> list[int]:
            padding = [filler] * (longest - len(row))
            return padding + row if left else row + padding

        device = self.device
        return {
            "input_ids": torch.tensor([fill(row, pad) for row in rows], device=device),
            "attention_mask": torch.tensor(
                [fill([1] * len(row), 0) for row in rows], device=device
            ),
        }


@contextlib.contextmanager
def _requiring_grad(model: Any) -> "Iterator[list[Tensor]]":
    """All parameters, each of which requires a gradient meanwhile, whether or not it is being
    trained."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield weights
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
