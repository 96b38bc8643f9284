"""Limit how many processes a user's count may start: beyond that, the machine stands still."""

import os

from unteach.errors import UserError

PER_CORE = 4


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def refuse_too_many(key: str, count: int) -> None:
    """Raise UserError where a count of processes is more than four for each core."""
    most = PER_CORE * num_cores()
    if count > most:
        raise UserError(
            f"{key}={count}: at most {most} processes here, {PER_CORE} for each of {num_cores()} "
            f"cores"
        )
