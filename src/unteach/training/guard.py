"""The collapse guard: watch what should be retained while a method forgets, and end a run that
ruins the model.

Every few steps it measures some retain rows: the mean loss of their answers, and how much greedy
continuations of their prompts repeat themselves. It draws no random number and changes nothing, so
a run with it takes the steps of a run without.

A method whose loss has no floor (`Method.ASCENDS`) gets a guard that only watches, unless another
is configured: it scores the same rows every few steps, generates and logs nothing, and says once
that the model is collapsing.
"""

import itertools
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

import transformers

from unteach.config.watching import Guard
from unteach.data.examples import Example
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Ids
from unteach.engines.hf import HFEngine
from unteach.errors import Diverged
from unteach.models.forward import IGNORED
from unteach.models.loading import LoadedModel

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 32
"""The length of each continuation."""


def compute_repetition(tokens: list[int]) -> float:
    """Compute the share of a text's token bigrams that occurred in it before; 1 for an empty
    text."""
    bigrams = list(itertools.pairwise(tokens))
    if not bigrams:
        return 0.0 if tokens else 1.0
    return 1 - len(set(bigrams)) / len(bigrams)


class NeverPreempted(DistContext):
    """One process that does not stop between two batches: the step that a look belongs to is not
    over yet."""

    def check_preemption(self) -> None:
        pass


class GuardState(TypedDict):
    """What a checkpoint keeps of a guard; see the attributes of `CollapseGuard`."""

    began: float | None
    healthy_step: int | None
    collapsed: str | None


ACTIONS = {
    "warn": "Training goes on (trainer.guard.action=warn)",
    "stop": "Training ends here (trainer.guard.action=stop)",
    "best": "Training ends here and goes back to step {step}, the last healthy one "
    "(trainer.guard.action=best)",
}
FORGET_LESS = "a lower trainer.args.learning_rate or fewer steps forget less and keep more"
REMEDIES = {
    "retain": "trainer.guard.action=stop ends it at such a step, and trainer.guard.action=best "
    f"goes back to the last healthy model; {FORGET_LESS}",
    "forget": f"{FORGET_LESS}; with rows to retain, which show it earlier, "
    "trainer.guard.action=stop ends it there",
}
"""What to do about a collapse that only a watch saw, by the stream whose rows it measured."""


class CollapseGuard(transformers.TrainerCallback):
    """Measure at the beginning and every `guard.every` steps; log, and stop or go back.

    Args:
        guard: how often it looks, what it allows, and what it does about a collapse.
        loaded: the model that is trained.
        stream: the rows that it measures the first of.

    Attributes:
        began: the mean loss before the first step.
        healthy_step: the last step at which the model was healthy.
        collapsed: the last step at which it was not, and why, in a sentence.
        log: where each look is logged, as guard_loss, guard_rise and guard_repetition: the
            trainer's own log, which sets it.
    """

    def __init__(self, guard: Guard, loaded: LoadedModel, stream: Stream):
        self.guard = guard
        self.loaded = loaded
        dist = NeverPreempted(0, 1, None, None)
        self.engine = HFEngine(
            loaded.model, loaded.tokenizer, guard.rows, dist, stops=loaded.template.stops
        )
        num_rows = min(guard.rows, len(stream))
        self.pairs = [_split_example(stream.example(row)) for row in range(num_rows)]
        self.began: float | None = None
        self.healthy_step: int | None = None
        self.collapsed: str | None = None
        self.log: Callable[[dict[str, float]], None] = lambda logs: None

    def state(self) -> GuardState:
        return {"began": self.began, "healthy_step": self.healthy_step, "collapsed": self.collapsed}

    def load_state(self, state: GuardState) -> None:
        self.began = state["began"]
        self.healthy_step = state["healthy_step"]
        self.collapsed = state["collapsed"]

    @property
    def ended(self) -> bool:
        """Whether the guard ended training."""
        return self.collapsed is not None and self.guard.action != "warn"

    @property
    def goes_back(self) -> bool:
        """Whether the guard ended training, and the last healthy model is kept."""
        return self.ended and self.guard.action == "best"

    def measure_loss(self) -> float:
        """Measure the mean loss of the rows' answers, in nats."""
        with self.loaded.autocast():
            scores = self.engine.score(self.pairs)
        return sum(score.avg_loss for score in scores) / len(scores)

    def measure_repetition(self) -> float:
        """Measure the mean repetition of greedy continuations of the rows' prompts."""
        prompts = [prompt for prompt, _ in self.pairs]
        with self.loaded.autocast():
            texts = self.engine.generate(prompts, MAX_NEW_TOKENS)
        return sum(compute_repetition(tokens) for tokens in texts) / len(texts)

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if self.began is None:
            self.began = self.measure_loss()
            self._log(control, self.began, self.measure_repetition())

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if state.global_step % self.guard.every:
            return
        assert self.began is not None
        loss = self.measure_loss()
        repetition = self.measure_repetition()
        self._log(control, loss, repetition)
        rise = loss - self.began
        if rise <= self.guard.max_rise and repetition <= self.guard.max_repetition:
            self._mark_healthy(args, state, control)
            return

        had_collapsed = self.collapsed is not None
        self.collapsed = (
            f"step {state.global_step}: the retain answers' loss is {loss:.3g}, {rise:+.3g} since "
            f"the beginning (allowed {self.guard.max_rise:+g}), and {repetition:.0%} of what is "
            f"said repeats itself (allowed {self.guard.max_repetition:.0%})"
        )
        # A run that goes on collapses at each later look too: one note is enough.
        if state.is_world_process_zero and not had_collapsed:
            action = ACTIONS[self.guard.action].format(step=self.healthy_step)
            logger.info(f"the model is collapsing. {self.collapsed}. {action}")
        if self.guard.action == "best" and self.healthy_step is None:
            raise Diverged(
                f"{self.collapsed}. It was never seen healthy before: lower "
                "trainer.args.learning_rate or trainer.guard.every"
            )
        if self.ended:
            control.should_training_stop = True

    def _log(self, control: "TrainerControl", loss: float, repetition: float) -> None:
        assert self.began is not None
        # Any line that is logged resets the flag, and the step's own line is still to come.
        should_log = control.should_log
        self.log(
            {"guard_loss": loss, "guard_rise": loss - self.began, "guard_repetition": repetition}
        )
        control.should_log = should_log

    def _mark_healthy(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl"
    ) -> None:
        """Remember the step as healthy and, where the guard may go back to it, have it saved."""
        self.healthy_step = state.global_step
        if self.guard.action == "best":
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"
            control.should_save = True


class CollapseWatch(CollapseGuard):
    """Say once that the model is collapsing, and then measure no more: the default of an ascending
    method.

    Args:
        method_name: by which the note calls the method.
        loaded: the model that is trained.
        stream: `retain`, whose answers should stay as likely as they were; or, where there are no
            such rows, `forget`, whose answers need not get less likely than tokens drawn at random.
    """

    def __init__(self, method_name: str, loaded: LoadedModel, stream: Stream):
        super().__init__(Guard(), loaded, stream)
        self.method_name = method_name
        self.stream_name = stream.name

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        if self.began is None:
            self.began = self.measure_loss()

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **_: object,
    ) -> None:
        is_due = state.global_step % self.guard.every == 0 or state.global_step >= state.max_steps
        if self.collapsed is not None or not is_due:
            return
        collapse = self._describe_collapse(self.measure_loss())
        if collapse is None:
            return
        self.collapsed = f"step {state.global_step}: {collapse}"
        if state.is_world_process_zero:
            cause = f"{self.method_name} has no floor: it goes on until nothing is left"
            remedy = f"Training goes on. {REMEDIES[self.stream_name]}"
            logger.info(f"the model is collapsing. {self.collapsed}. {cause}. {remedy}")

    def _describe_collapse(self, loss: float) -> str | None:
        """Describe the collapse that a mean loss shows; None where it shows none."""
        assert self.began is not None
        max_rise = self.guard.max_rise
        if self.stream_name == "retain":
            rise = loss - self.began
            if rise <= max_rise:
                return None
            return (
                f"the mean loss of {len(self.pairs)} retain answers is {loss:.3g}, {rise:+.3g} "
                f"since the beginning"
            )
        vocabulary_size = len(self.loaded.tokenizer)
        loss_by_chance = math.log(vocabulary_size)
        if loss <= max(loss_by_chance, self.began) + max_rise:
            return None
        return (
            f"the mean loss of {len(self.pairs)} forget answers is {loss:.3g}, and of tokens drawn "
            f"at random from all {vocabulary_size:,} it would be {loss_by_chance:.3g}: this is no "
            "forgetting any more, it ruins the model"
        )


def _split_example(example: Example) -> tuple[Ids, Ids]:
    """Split an example into its prompt and its answer, each of one token at least."""
    token_ids = tuple(int(token_id) for token_id in example["input_ids"])
    is_label = [int(label) != IGNORED for label in example["labels"]]
    start = max(is_label.index(True), 1)
    return token_ids[:start], token_ids[start:]
