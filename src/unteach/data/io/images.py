"""Images of a table's column: paths, http(s) addresses, or what a data set's image column holds.
Read within limits."""

import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES, MOST_PIXELS, SECONDS = 32 << 20, 100_000_000, 30.0
"""Of one image: the size of its file, width times height, and how long a server may take to give
it."""
AHEAD = 16
"""Rows whose images are read while those before them are in use."""

T = TypeVar("T")


class Unreadable(ValueError):
    """An image that cannot be used, and why."""


def read(source: object, most_bytes: int = MOST_BYTES, seconds: float = SECONDS) -> "Image":
    """The image in RGB, upright as its EXIF tells.

    source: a path, an http(s) address, the bytes of a file, a PIL image, or {"bytes": …, "path": …}
    as `datasets` stores images. Raises Unreadable, naming what could not be read and why.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path")
    name = source if isinstance(source, str) else "the image"
    if source is None or source == "":
        raise Unreadable("there is no image")
    try:
        opened = (
            source
            if isinstance(source, Image.Image)
            else Image.open(_file(source, most_bytes, seconds))
        )
        if opened.width * opened.height > MOST_PIXELS:
            raise Unreadable(
                f"{name} has {opened.width} x {opened.height} pixels; {MOST_PIXELS:,} at most"
            )
        return ImageOps.exif_transpose(opened).convert("RGB")
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(f"{name} is not an image of a kind that Pillow reads") from None
    except Exception as error:  # what decoders raise of a broken file is not to be foreseen
        raise Unreadable(f"{name} cannot be read: {str(error) or type(error).__name__}") from None


def _file(source: object, most_bytes: int, seconds: float) -> Any:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str):
        raise Unreadable(
            f"an image is a path, an http(s) address or an image, not {type(source).__name__}"
        )
    scheme, separator, _ = source.partition("://")
    if not separator:
        if not Path(source).is_file():
            raise Unreadable(f"{source}: there is no such file")
        if Path(source).stat().st_size > most_bytes:
            raise Unreadable(f"{source} is larger than {most_bytes:,} bytes")
        return source
    if scheme.lower() not in ("http", "https"):
        raise Unreadable(f"{source}: images are fetched over http and https alone")
    return io.BytesIO(_fetched(source, most_bytes, seconds))


def _fetched(url: str, most_bytes: int, seconds: float) -> bytes:
    import httpx2

    end, body = time.monotonic() + seconds, bytearray()
    try:
        with httpx2.stream("GET", url, timeout=seconds, follow_redirects=True) as response:
            if response.status_code != 200:
                raise Unreadable(f"{url} was answered with HTTP {response.status_code}")
            for piece in response.iter_bytes():
                body += piece
                if len(body) > most_bytes:
                    raise Unreadable(f"{url} is larger than {most_bytes:,} bytes")
                if time.monotonic() > end:
                    raise Unreadable(f"{url} did not come within {seconds:g} s")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unreadable(f"{url} cannot be fetched: {str(error) or type(error).__name__}") from None
    return bytes(body)


def ahead(
    rows: Iterable[T], sources: Callable[[T], Sequence[Any]], workers: int = AHEAD
) -> "Iterator[tuple[T, list[Image] | Unreadable]]":
    """Each row with its images, or with why one of them cannot be read, in order; the next rows'
    are read meanwhile."""
    waiting: deque[tuple[T, Future[Any]]] = deque()
    coming = iter(rows)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for row in islice(coming, workers - len(waiting)):
                    waiting.append((row, pool.submit(_all, sources(row))))
                if not waiting:
                    return
                row, images = waiting.popleft()
                yield row, images.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _all(sources: Sequence[Any]) -> "list[Image] | Unreadable":
    try:
        return [read(source) for source in sources]
    except Unreadable as error:
        return error
