"""Who may read and write what a run leaves is the umask's to say."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from unteach import atomic
from unteach.atomic import atomic_write_folder


@pytest.fixture(params=[0o077, 0o022, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_as_open_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    file = tmp_path / "new" / "x.json"
    for content in (1, 2):  # a new file, and one that takes the place of another
        atomic.write_json(file, content)
        assert mode_of(file) == 0o666 & ~umask
    assert mode_of(file.parent) == 0o777 & ~umask
    assert [path.name for path in file.parent.iterdir()] == ["x.json"]


def test_a_folder_is_as_open_as_the_umask_says_whatever_a_library_made_of_its_files(
    tmp_path: Path, umask: int
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("x")
    mine.chmod(0o600)
    with atomic_write_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("x")
        (folder / "weights").chmod(0o600)
        (folder / "link").symlink_to(mine)
    assert mode_of(tmp_path / "model") == 0o777 & ~umask
    assert mode_of(tmp_path / "model" / "weights") == 0o666 & ~umask
    assert mode_of(mine) == 0o600
