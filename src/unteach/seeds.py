"""Derive independent random streams from one seed: each use names its own, so none disturbs
another."""

import hashlib
import random


def derive_seed(seed: int, *names: object) -> int:
    """Derive the 63-bit seed of the stream `names` from a run's seed; the same in every process and
    Python version."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(size: int, seed: int, *names: object) -> list[int]:
    """Permute range(size) by a seed; a pure function of its arguments."""
    order = list(range(size))
    random.Random(derive_seed(seed, *names)).shuffle(order)
    return order
