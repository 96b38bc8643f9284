"""Images from paths, addresses and data sets; those that cannot be read say why."""

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.inference.backends.conftest import Fake, fake  # noqa: F401
from unteach.data.io import images


def png(width: int = 3, height: int = 2, colour: str = "red") -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(held, format="PNG")
    return held.getvalue()


def test_all_that_a_column_may_hold(tmp_path: Path, fake: Fake) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png())
    fake.files["/red.png"] = png()
    sources = [
        str(path),
        f"{fake.url}/red.png",
        png(),
        {"bytes": png(), "path": None},
        {"path": str(path)},
    ]
    for source in [*sources, Image.open(path)]:
        read = images.read(source)
        assert (read.mode, read.size, read.getpixel((0, 0))) == ("RGB", (3, 2), (255, 0, 0))


def test_an_image_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (3, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert images.read(str(tmp_path / "turned.jpg")).size == (2, 3)


def test_what_cannot_be_read_says_why(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "torn.png").write_bytes(png(20, 20)[:60])
    (tmp_path / "wide.png").write_bytes(png(300, 200))
    fake.files["/page.png"] = b"<html>no image</html>"
    fake.files["/large.png"] = b"0" * 5000
    monkeypatch.setattr(images, "MOST_PIXELS", 1000)
    wrong = {
        str(tmp_path / "absent.png"): "there is no such file",
        str(tmp_path / "text.png"): "is not an image",
        str(tmp_path / "torn.png"): "cannot be read|is not an image",
        str(tmp_path / "wide.png"): "300 x 200 pixels; 1,000 at most",
        f"{fake.url}/absent.png": "HTTP 404",
        f"{fake.url}/page.png": "is not an image",
        f"{fake.url}/large.png": "larger than 4,096 bytes",
        "http://127.0.0.1:9/x.png": "cannot be fetched",
        "file:///etc/hostname": "over http and https alone",
        "": "there is no image",
    }
    for source, why in wrong.items():
        with pytest.raises(images.Unreadable, match=why):
            images.read(source, most_bytes=4096)
    with pytest.raises(images.Unreadable, match="not int"):
        images.read(3)


@settings(max_examples=100, deadline=None, database=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF"]), st.data())
def test_a_broken_file_is_unreadable_and_nothing_else(kind: str, data: st.DataObject) -> None:
    held = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(held, format=kind)
    whole = bytearray(held.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    torn = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(images.Unreadable):
        assert images.read(torn).mode == "RGB"


def test_rows_come_in_order_with_their_images_or_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    rows = [["a.png"] * (i % 3 + 1) if i % 4 else ["b.png"] for i in range(40)]
    found = list(
        images.read_ahead(rows, lambda row: [str(tmp_path / name) for name in row], workers=3)
    )
    assert [row for row, _ in found] == rows
    for row, read in found:
        assert isinstance(read, images.Unreadable) if row == ["b.png"] else len(read) == len(row)
