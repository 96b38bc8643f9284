"""Why a training ended, and whose weights it leaves."""

from unteach.training.resumable import Resumable


def describe_ending(trainer: Resumable) -> list[str]:
    """Say at which step training ended and why, and which weights are kept where they are not the
    last step's."""
    state = trainer.state
    lines = [f"ended at step {state.global_step} of {state.max_steps}: {_reason(trainer)}"]
    if kept := _kept(trainer):
        lines.append(f"kept: {kept}")
    return lines


def _reason(trainer: Resumable) -> str:
    state, args, guard = trainer.state, trainer.args, trainer.guard
    if guard and guard.ended:
        return (
            f"the collapse guard ended it (trainer.guard.action={guard.guard.action}). "
            f"{guard.collapsed}"
        )
    if state.global_step >= state.max_steps:
        return "trainer.args.max_steps is reached" if args.max_steps > 0 else "all epochs are done"
    if trainer.patience_is_over:
        least = trainer.checkpoint_policy.threshold
        better = f"better by more than {least:g}" if least else "better"
        return (
            f"early stopping, since {args.metric_for_best_model} was not {better} in "
            f"{trainer.checkpoint_policy.patience} evaluations in a row"
        )
    return "a callback of its trainer ended it"


def _kept(trainer: Resumable) -> str | None:
    state, args, guard = trainer.state, trainer.args, trainer.guard
    if guard and guard.goes_back:
        return (
            f"the weights of step {guard.healthy_step}, the last at which the guard saw a "
            f"healthy model"
        )
    if args.load_best_model_at_end and state.best_model_checkpoint:
        step = state.best_model_checkpoint.rpartition("-")[2]
        best = f" ({state.best_metric:.4g})" if state.best_metric is not None else ""
        return f"the weights of step {step}, the best by {args.metric_for_best_model}{best}"
    if trainer.patience_is_over:
        return (
            "the weights of the last step (trainer.args.load_best_model_at_end=true keeps the best)"
        )
    return None
