"""The collapse guard: looks at what should be retained while a method forgets, and ends a run that
ruins the model.

Every few steps it asks the model about some retain rows: the mean loss of their answers, and greedy
continuations of their prompts. It draws no random number and changes nothing, so a run with it
takes the steps of a run without.

A method whose loss has no floor (`Method.ASCENDS`) has a guard that only watches, unless another is
asked for: it scores the same rows every `EVERY` steps, generates and logs nothing, and says once
that the model is collapsing.
"""

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import transformers

from unteach import console
from unteach.config.watching import Guard
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Ids
from unteach.engines.hf import HFEngine
from unteach.errors import Diverged
from unteach.models.forward import IGNORED
from unteach.models.loading import LoadedModel

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

NEW_TOKENS = 32
"""Of each continuation that is looked at."""


def repetition(tokens: list[int]) -> float:
    """The share of a text's pairs of neighbouring tokens that it had before; 1 for an empty
    text."""
    pairs = list(itertools.pairwise(tokens))
    return 1 - len(set(pairs)) / len(pairs) if pairs else float(not tokens)


class Unasked(DistContext):
    """Never stops between two batches: the step that a look belongs to is not over yet."""

    def check_preemption(self) -> None:
        pass


DOES = {
    "warn": "Training goes on (trainer.guard.action=warn)",
    "stop": "Training ends here (trainer.guard.action=stop)",
    "best": "Training ends here and goes back to step {step}, the last healthy one "
    "(trainer.guard.action=best)",
}
LESS = "a lower trainer.args.learning_rate or fewer steps forget less and keep more"
MEND = {
    "retain": "trainer.guard.action=stop ends it at such a step, and trainer.guard.action=best "
    "goes back to the last "
    f"healthy model; {LESS}",
    "forget": f"{LESS}; with rows to retain, which show it earlier, trainer.guard.action=stop ends "
    f"it there",
}
"""What is said beside a collapse that only a watch saw, by the stream that it looked at."""


class CollapseGuard(transformers.TrainerCallback):
    """Looks at the beginning and every `guard.every` steps; logs what it sees, and stops or goes
    back.

    log: where each look is logged, as guard_loss, guard_rise and guard_repetition; the trainer's
    own log.
    """

    def __init__(self, guard: Guard, loaded: LoadedModel, stream: Stream):
        self.guard, self.loaded = guard, loaded
        alone = Unasked(0, 1, None, None)
        self.engine = HFEngine(
            loaded.model, loaded.tokenizer, guard.rows, alone, stops=loaded.template.stops
        )
        self.pairs = [
            _prompt_and_answer(stream.example(n)) for n in range(min(guard.rows, len(stream)))
        ]
        self.began: float | None = None
        self.healthy_step: int | None = None
        self.collapsed: str | None = None
        self.log: Callable[[dict[str, float]], None] = lambda logs: None

    def state(self) -> dict[str, Any]:
        return {"began": self.began, "healthy_step": self.healthy_step, "collapsed": self.collapsed}

    def load_state(self, state: dict[str, Any]) -> None:
        self.began, self.healthy_step, self.collapsed = (
            state[k] for k in ("began", "healthy_step", "collapsed")
        )

    @property
    def ended(self) -> bool:
        """Whether training is over because of what it saw."""
        return self.collapsed is not None and self.guard.action != "warn"

    @property
    def goes_back(self) -> bool:
        return self.ended and self.guard.action == "best"

    def measure_loss(self) -> float:
        """Measure the mean loss of the answers it looks at, in nats."""
        with self.loaded.autocast():
            scores = self.engine.score(self.pairs)
        return sum(score.avg_loss for score in scores) / len(scores)

    def measure_repetition(self) -> float:
        """Measure the mean repetition of what the model says to their prompts."""
        with self.loaded.autocast():
            texts = self.engine.generate([prompt for prompt, _ in self.pairs], NEW_TOKENS)
        return sum(map(repetition, texts)) / len(texts)

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
        loss, repeated = self.measure_loss(), self.measure_repetition()
        self._log(control, loss, repeated)
        rise = loss - self.began
        if rise <= self.guard.max_rise and repeated <= self.guard.max_repetition:
            self._healthy(args, state, control)
            return
        was_said = self.collapsed is not None
        self.collapsed = (
            f"step {state.global_step}: the retain answers' loss is {loss:.3g}, {rise:+.3g} since "
            f"the beginning (allowed {self.guard.max_rise:+g}), and {repeated:.0%} of what is said "
            f"repeats itself (allowed {self.guard.max_repetition:.0%})"
        )
        # A run that goes on collapses at each later look too: once is enough.
        if state.is_world_process_zero and not was_said:
            does = DOES[self.guard.action].format(step=self.healthy_step)
            console.say(f"note: the model is collapsing. {self.collapsed}. {does}")
        if self.guard.action == "best" and self.healthy_step is None:
            raise Diverged(
                f"{self.collapsed}. It was never seen healthy before: lower "
                "trainer.args.learning_rate or trainer.guard.every"
            )
        if self.ended:
            control.should_training_stop = True

    def _log(self, control: transformers.TrainerControl, loss: float, repeated: float) -> None:
        assert self.began is not None
        is_due = control.should_log
        self.log(
            {"guard_loss": loss, "guard_rise": loss - self.began, "guard_repetition": repeated}
        )
        # any line that is logged takes it back, and the step's own is still to come
        control.should_log = is_due

    def _healthy(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl"
    ) -> None:
        self.healthy_step = state.global_step
        if self.guard.action == "best":
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"
            control.should_save = True


class CollapseWatch(CollapseGuard):
    """Says once that the model is collapsing, and then looks no more: what an ascending method has
    by default.

    Args:
        stream: `retain`, whose answers should stay as likely as they were; or, where there are no
            such rows, `forget`, whose answers need not get less likely than tokens drawn at random.
    """

    def __init__(self, method_name: str, loaded: LoadedModel, stream: Stream):
        super().__init__(Guard(), loaded, stream)
        self.method_name, self.stream_name = method_name, stream.name

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
        seen = self._describe_collapse(self.measure_loss())
        if seen is None:
            return
        self.collapsed = f"step {state.global_step}: {seen}"
        if state.is_world_process_zero:
            why = f"{self.method_name} has no floor: it goes on until nothing is left"
            mend = f"Training goes on. {MEND[self.stream_name]}"
            console.say(f"note: the model is collapsing. {self.collapsed}. {why}. {mend}")

    def _describe_collapse(self, loss: float) -> str | None:
        """Say what is wrong with this mean loss, None where nothing is."""
        assert self.began is not None
        allowed, rise = self.guard.max_rise, loss - self.began
        if self.stream_name == "retain":
            if rise <= allowed:
                return None
            return (
                f"the mean loss of {len(self.pairs)} retain answers is {loss:.3g}, {rise:+.3g} "
                f"since the beginning"
            )
        num_tokens = len(self.loaded.tokenizer)
        chance = math.log(num_tokens)
        if loss <= max(chance, self.began) + allowed:
            return None
        return (
            f"the mean loss of {len(self.pairs)} forget answers is {loss:.3g}, and of tokens drawn "
            f"at random from all {num_tokens:,} it would be {chance:.3g}: this is no forgetting "
            "any more, it ruins the model"
        )


def _prompt_and_answer(example: dict[str, Any]) -> tuple[Ids, Ids]:
    ids, labels = [int(i) for i in example["input_ids"]], [int(i) for i in example["labels"]]
    start = next(i for i, label in enumerate(labels) if label != IGNORED)
    return tuple(ids[: max(start, 1)]), tuple(ids[max(start, 1) :])
