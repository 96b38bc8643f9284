"""Describe why a training ended, and which weights it leaves."""

from unteach.training.resumable import Resumable


def describe_ending(trainer: Resumable) -> list[str]:
    """Describe at which step training ended and why, and which weights are kept where they are not
    the last step's."""
    state = trainer.state
    reason = _describe_reason(trainer)
    lines = [f"ended at step {state.global_step} of {state.max_steps}: {reason}"]
    kept_weights = _describe_kept_weights(trainer)
    if kept_weights:
        lines.append(f"kept: {kept_weights}")
    return lines


def _describe_reason(trainer: Resumable) -> str:
    state, args, guard = trainer.state, trainer.args, trainer.guard
    if guard and guard.ended:
        return (
            f"the collapse guard ended it (trainer.guard.action={guard.guard.action}). "
            f"{guard.collapsed}"
        )
    if state.global_step >= state.max_steps:
        return "trainer.args.max_steps is reached" if args.max_steps > 0 else "all epochs are done"
    if trainer.patience_is_over:
        threshold = trainer.checkpoint_policy.threshold
        better = f"better by more than {threshold:g}" if threshold else "better"
        return (
            f"early stopping, since {args.metric_for_best_model} was not {better} in "
            f"{trainer.checkpoint_policy.patience} evaluations in a row"
        )
    return "a callback of its trainer ended it"


def _describe_kept_weights(trainer: Resumable) -> str | None:
    """Describe which weights are kept; None where they are the last step's."""
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
