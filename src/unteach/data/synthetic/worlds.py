"""The built-in worlds by their names: `authors` and `people`."""

from unteach.data.rows import Row
from unteach.data.synthetic import authors, people
from unteach.data.synthetic.people import PeopleWorld
from unteach.data.synthetic.world import World

SyntheticWorld = World | PeopleWorld
WORLDS: dict[str, type[SyntheticWorld]] = {"authors": World, "people": PeopleWorld}
"""The settings of each kind of world."""


def parse_world(path: str) -> SyntheticWorld | None:
    """Build the world that a path names: `authors`, `authors-grown` or `people`, and `:SEED`.

    None where the path names no world.
    """
    return authors.parse_world(path) or people.parse_world(path)


def list_configs(world: SyntheticWorld) -> tuple[str, ...]:
    """List the names of a world's configs."""
    return people.NAMES if isinstance(world, PeopleWorld) else authors.NAMES


def build_world_rows(world: SyntheticWorld, name: str) -> list[Row]:
    """Build the rows of one config of a world.

    Raises:
        AbsentData: there is no such config.
    """
    if isinstance(world, PeopleWorld):
        return people.build_world_rows(world, name)
    return authors.build_world_rows(world, name)


def note_uneven_share(name: str, world: SyntheticWorld) -> str | None:
    """Say that the share of a config is less than whole authors; people are always whole."""
    if isinstance(world, PeopleWorld):
        return None
    return authors.note_uneven_share(name, world)
