"""What a name says by the way it is written: a configuration, a hub id, or a path of this
machine."""

import os

from unteach.config.files import name_and_split


def is_path_or_hub_id(name: str) -> bool:
    """Whether a name is written as a path or a hub id, and so names no configuration."""
    return "/" in name or name.startswith((".", "~"))


def is_place(name: str) -> bool:
    """Whether a name says where something is: a path, a hub id, or what is there in this folder."""
    if is_path_or_hub_id(name):
        return True
    path, _ = name_and_split(name)
    return os.path.exists(os.path.expanduser(path))


def is_local(name: str) -> bool:
    """Whether a name is a path and can be no hub id: `org/name`, whose first part is no folder
    here."""
    name, _ = name_and_split(name)
    first, *rest = name.split("/")
    if name.startswith((".", "/", "~")) or len(rest) > 1:
        return True
    return bool(rest) and os.path.isdir(first)
