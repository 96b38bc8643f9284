"""Work of several processes, with its results in order."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_processes: int,
) -> Iterator[Result]:
    """Apply a function to items in several processes.

    No more items are taken than keep all processes busy.

    Args:
        function: what is applied; it need not be picklable, as the processes are forked.
        items: what it is applied to, taken one after the other.
        num_processes: 1 works in this process.

    Yields:
        The results, in the order of the items.
    """
    if num_processes == 1:
        yield from map(function, items)
        return
    # A forked process has the function without its being sent.
    global _function
    _function = function
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_processes, context, _end_with_parent) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) > 2 * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_function: Callable[[Any], Any]


def _call(item: object) -> Any:
    """Apply the function in a forked process."""
    return _function(item)


def _end_with_parent() -> None:
    """End this process with its parent: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
