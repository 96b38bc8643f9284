"""Where a continuation ends beside the model's own end: at a text that is named for it."""

from collections.abc import Iterable


def cut_at_stop(text: str, stops: Iterable[str]) -> str:
    """Cut a text where the first of the stop strings begins in it."""
    end = len(text)
    for stop in stops:
        start = text.find(stop)
        if start >= 0:
            end = min(end, start)
    return text[:end]
