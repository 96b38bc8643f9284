"""Images of a table's column, read within limits: paths, http(s) addresses, or what the image
column of a data set holds."""

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

MOST_BYTES = 32 << 20
"""The size of an image's file."""
MOST_PIXELS = 100_000_000
"""Width times height of an image."""
SECONDS = 30.0
"""How long a server may take to give an image."""
ROWS_AHEAD = 16
"""Rows whose images are read while those before them are in use."""

T = TypeVar("T")


class Unreadable(ValueError):
    """An image that cannot be used, and why."""


def read(
    source: object,
    most_bytes: int = MOST_BYTES,
    seconds: float = SECONDS,
) -> "Image":
    """Read an image in RGB, upright as its EXIF tells.

    Args:
        source: a path, an http(s) address, the bytes of a file, a PIL image, or
            {"bytes": …, "path": …} as `datasets` stores images.
        most_bytes: the limit of the file's size.
        seconds: the limit of a download.

    Raises:
        Unreadable: names what could not be read, and why.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path")
    name = source if isinstance(source, str) else "the image"
    if source is None or source == "":
        raise Unreadable("there is no image")
    try:
        if isinstance(source, Image.Image):
            image = source
        else:
            image = Image.open(_open_file(source, most_bytes, seconds))
        if image.width * image.height > MOST_PIXELS:
            raise Unreadable(
                f"{name} has {image.width} x {image.height} pixels; {MOST_PIXELS:,} at most"
            )
        return ImageOps.exif_transpose(image).convert("RGB")
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(f"{name} is not an image of a kind that Pillow reads") from None
    except Exception as error:  # what decoders raise of a broken file is not to be foreseen
        reason = str(error) or type(error).__name__
        raise Unreadable(f"{name} cannot be read: {reason}") from None


def _open_file(source: object, most_bytes: int, seconds: float) -> str | io.BytesIO:
    """Give what Pillow opens: a path, or bytes that were at hand or are downloaded now."""
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
    return io.BytesIO(_download(source, most_bytes, seconds))


def _download(url: str, most_bytes: int, seconds: float) -> bytes:
    """Download a file within the limits of its size and of the time it takes."""
    # Takes long to import, and only images on servers need it.
    import httpx2

    deadline = time.monotonic() + seconds
    body = bytearray()
    try:
        with httpx2.stream(
            "GET",
            url,
            timeout=seconds,
            follow_redirects=True,
        ) as response:
            if response.status_code != 200:
                raise Unreadable(f"{url} was answered with HTTP {response.status_code}")
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > most_bytes:
                    raise Unreadable(f"{url} is larger than {most_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise Unreadable(f"{url} did not come within {seconds:g} s")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise Unreadable(f"{url} cannot be fetched: {reason}") from None
    return bytes(body)


def read_ahead(
    rows: Iterable[T],
    sources: Callable[[T], Sequence[Any]],
    workers: int = ROWS_AHEAD,
) -> "Iterator[tuple[T, list[Image] | Unreadable]]":
    """Read the images of rows in threads, some rows ahead of the one in use.

    Args:
        rows: the rows, taken one after the other.
        sources: gives the images of a row, as `read` takes them.
        workers: rows that are read at once.

    Yields:
        Each row in order with its images, or with why one of them cannot be read.
    """
    waiting: deque[tuple[T, Future[list[Image] | Unreadable]]] = deque()
    remaining = iter(rows)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for row in islice(remaining, workers - len(waiting)):
                    future = pool.submit(_read_all, sources(row))
                    waiting.append((row, future))
                if not waiting:
                    return
                row, images = waiting.popleft()
                yield row, images.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_all(sources: Sequence[Any]) -> "list[Image] | Unreadable":
    """Read the images of a row; an error is given back, not raised."""
    try:
        return [read(source) for source in sources]
    except Unreadable as error:
        return error
