"""The Hugging Face engine: length-sorted batches under a token budget, over any number of
processes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unteach.engines import finiteness, gradient_norms, prompt_sharing
from unteach.engines.base import Ids, Pair, ProgressCallback, Score
from unteach.engines.batching import Batch
from unteach.engines.prompt_sharing import AnswerTree, PromptPlanner
from unteach.engines.text_engine import TextEngine
from unteach.engines.token_statistics import compute_token_statistics
from unteach.lazy import torch
from unteach.models.decoding import get_decoding
from unteach.models.forward import IGNORED, OutputSpec, TokenOutputs

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from unteach.models.hidden_states import SharedRows

STREAM = "asked"
"""The one stream of an engine's batches."""
ReadValues = Callable[[TokenOutputs], "Tensor"]
"""Gives what is wanted of a pass: [N, k]."""


class HFEngine(TextEngine):
    """A transformers model as an engine. Batch size and process count change no value beyond
    rounding.

    It takes the arguments of TextEngine.
    """

    _has_tried_sharing = False
    _max_shared_width: int | None = None

    def score(self, pairs: Sequence[Pair], on_progress: ProgressCallback = None) -> list[Score]:
        """Score (prompt, answer) pairs of token ids.

        One teacher-forced pass, the head on answer positions only.
        """

        def score_batch(batch: Batch) -> list[Score]:
            return self.score_batch(pairs, batch)

        scores: list[Score] = self.measure(
            "score", self.plan_scores(pairs), score_batch, on_progress
        )
        # Only a model with a decoding has such tokens; the scores tell without loading a model.
        finiteness.report_impossible(scores)
        return scores

    def plan_scores(self, pairs: Sequence[Pair], pass_name: str = "score") -> PromptPlanner:
        """Plan the rows and batches of a pass over answers, those of one prompt in one row."""
        return PromptPlanner(
            pairs,
            self.batch_size,
            self.get_budget(pass_name),
            find_max_width=lambda: self._find_shared_width(pairs),
        )

    def score_batch(self, pairs: Sequence[Pair], batch: Batch) -> list[Score]:
        """Score a batch of the plan of these pairs."""
        rows = []
        for row in batch:
            rows.append([pairs[i] for i in row])
        return self.score_rows(rows)

    def score_rows(self, rows: list[list[Pair]]) -> list[Score]:
        """Make one pass over rows of pairs of one prompt each; return a Score for each pair.

        Without a prompt, nothing predicts an answer's first token, and it is not scored.
        """
        spec = OutputSpec(fn=compute_token_statistics)
        statistics = self.measure_rows(rows, spec, _read_value)
        pairs = [_split_off_prompt(pair) for row in rows for pair in row]
        has_decoding = get_decoding(self.model) is not None
        scores = []
        for (_, answer), values in zip(pairs, statistics, strict=True):
            logprob, hit, mean, variance = values.T
            if has_decoding:
                logprob = finiteness.floor_impossible(logprob)
            score = Score(
                token=np.array(answer, dtype=np.int64),
                logprob=logprob,
                hit=hit > 0.5,
                mean=mean,
                variance=variance,
            )
            scores.append(score)
        return scores

    def measure_rows(
        self, rows: list[list[Pair]], spec: OutputSpec, read: ReadValues
    ) -> list[np.ndarray]:
        """Make one pass over rows of pairs of one prompt each, for what `spec` asks.

        Args:
            read: gives what is wanted of the outputs: [N, k].

        Returns:
            Of each pair [n, k] in fp32, n the tokens of its answer. Without a prompt, nothing
            predicts an answer's first token, and it is left out.
        """
        asked_rows = []
        pairs: list[Pair] = []
        for row in rows:
            asked_row = [_split_off_prompt(pair) for pair in row]
            asked_rows.append(asked_row)
            pairs += asked_row
        if len(pairs) > len(asked_rows):
            return self._measure_shared(asked_rows, spec, read)
        values = read(self.compute_outputs(pairs, spec)).float().cpu().numpy()
        return _split_by_lengths(values, [len(answer) for _, answer in pairs])

    def _measure_shared(
        self, rows: list[list[Pair]], spec: OutputSpec, read: ReadValues
    ) -> list[np.ndarray]:
        """Make one pass over rows of a prompt and several answers; return of each answer [n, k]."""
        prompts: list[Ids] = []
        trees: list[AnswerTree] = []
        token_rows = []
        for row in rows:
            prompt, _ = row[0]
            tree = AnswerTree([answer for _, answer in row])
            prompts.append(prompt)
            trees.append(tree)
            token_rows.append([*prompt, *tree.list_tokens()])
        tensors = self.pad_rows(token_rows, left=False)
        width = tensors["input_ids"].shape[1]
        any_weight = next(self.model.parameters())
        layout = prompt_sharing.lay_out(prompts, trees, width, like=any_weight)

        labels = torch.full_like(tensors["input_ids"], IGNORED)
        values = read(self._run_forward(tensors, labels, spec, layout)).float().cpu().numpy()

        # The values are those of each tree's predictions; an answer picks its own by their numbers.
        num_predictions = [len(tree.predictions) for tree in trees]
        values_by_tree = _split_by_lengths(values, num_predictions)
        by_answer = []
        for tree, tree_values in zip(trees, values_by_tree, strict=True):
            for path in tree.paths:
                numbers = np.array(path)  # from 1
                by_answer.append(tree_values[numbers - 1])
        return by_answer

    def _find_shared_width(self, pairs: Sequence[Pair]) -> int | None:
        """Find how wide a row of several answers may be.

        Returns:
            None where no prompt has several answers, or the model does not take such a row.
        """
        example = prompt_sharing.find_shared_prompt(pairs)
        if example is None:
            return None
        if not self._has_tried_sharing:
            self._max_shared_width = self._try_sharing(example)
            self._has_tried_sharing = True
        return self._max_shared_width

    def _try_sharing(self, example: Pair) -> int | None:
        """Score two short answers, made up for one prompt, in rows of their own and in one.

        Every process tries the same, and all agree.
        """
        max_width = prompt_sharing.find_max_width(self.model)
        if not max_width:
            return None
        prompt, answer = example
        first = answer[0]
        second = next(token for token in (*prompt, *answer, 0, 1) if token != first)
        answers = [(first, second, first), (second, first, second)]
        pairs: list[Pair] = [(prompt, answer) for answer in answers]
        has_failed = self.dist.any(not self._scores_agree(pairs))
        return None if has_failed else max_width

    def _scores_agree(self, pairs: list[Pair]) -> bool:
        """Say whether a row of two answers gives what each gets alone."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                plain = self.score_rows([[pair] for pair in pairs])
                shared = self.score_rows([pairs])
        except Exception:  # a model that does not take such a row may fail at it in any way
            return False
        finally:
            self.model.train(was_training)
        tolerance = prompt_sharing.find_tolerance(self.model)
        for alone, together in zip(plain, shared, strict=True):
            if not np.allclose(alone.logprob, together.logprob, atol=tolerance, rtol=0):
                return False
        return True

    def grad_norms(
        self,
        pairs: Sequence[Pair],
        p: float,
        on_progress: ProgressCallback = None,
    ) -> list[float]:
        """Return, for each (prompt, answer), the mean over parameter tensors of |grad avg_loss|_p.

        No `.grad` is touched. One backward pass a pair: a batch only says how often the results are
        kept and the processes look up.
        """

        gradient_norms.refuse_two_models(self.model)

        def compute_norm(pair: Pair, weights: "list[Parameter]") -> "Tensor":
            outputs = self.compute_outputs([pair], OutputSpec())
            return gradient_norms.compute_mean_norm(-outputs.value.mean(), weights, p)

        def compute_norms(batch: Batch) -> list[float]:
            # Older torch reuses casts made without gradients, which hide the weights.
            torch.clear_autocast_cache()
            with torch.enable_grad(), gradient_norms.requiring_grad(self.model) as weights:
                norms = [compute_norm(pairs[i], weights) for [i] in batch]
                return torch.stack(norms).tolist()

        planner = self.build_planner("grad_norms", pairs, prompt_sharing.count_tokens)
        return self.measure(f"grad_norms {float(p)}", planner, compute_norms, on_progress)

    def compute_outputs(self, pairs: list[Pair], spec: OutputSpec) -> TokenOutputs:
        """Make one teacher-forced pass over (prompt, answer) pairs, for what `spec` asks at the
        answers' positions. The caller says whether gradients are needed."""
        token_rows = [[*prompt, *answer] for prompt, answer in pairs]
        tensors = self.pad_rows(token_rows, left=False)
        ids = tensors["input_ids"]  # [B, T]
        labels = torch.full_like(ids, IGNORED)
        for row, (prompt, answer) in enumerate(pairs):
            start = len(prompt)
            end = start + len(answer)
            labels[row, start:end] = ids[row, start:end]
        return self._run_forward(tensors, labels, spec)

    def _run_forward(
        self,
        tensors: "dict[str, Tensor]",
        labels: "Tensor",
        spec: OutputSpec,
        shared: "SharedRows | None" = None,
    ) -> TokenOutputs:
        """Pass rows through the one forward."""
        num_rows = len(labels)
        batch = {
            **tensors,
            "labels": labels,
            "rows": {STREAM: (0, num_rows)},
            "weight": labels.new_ones(num_rows),
        }
        if shared is not None:
            batch["shared"] = shared
        outputs: dict[str, TokenOutputs] = self.model(batch=batch, want={STREAM: spec})
        return outputs[STREAM]


def _read_value(outputs: TokenOutputs) -> "Tensor":
    return outputs.value


def _split_off_prompt(pair: Pair) -> Pair:
    """Make the first token of an answer its prompt where it has none."""
    prompt, answer = pair
    if prompt:
        return pair
    return answer[:1], answer[1:]


def _split_by_lengths(values: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    """Split values [n, …] into pieces of these lengths, one after the other."""
    ends = np.cumsum(lengths)
    return np.split(values, ends[:-1])
