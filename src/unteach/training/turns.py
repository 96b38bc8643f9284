"""How the steps of a run take turns between its forget rows and its retain rows."""

from unteach.config.schema import TrainerConfig
from unteach.data.steps import Turns


def find_turns(trainer: TrainerConfig) -> Turns | None:
    """Find how the steps of a run take turns; None: each has rows of all streams."""
    if trainer.dual_optim is None:
        return None
    lengths = (trainer.dual_optim.forget_steps, trainer.dual_optim.retain_steps)
    return Turns(trainer.method.forget_streams(), lengths)
