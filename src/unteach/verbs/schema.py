"""`unteach schema KIND`: the JSON schema of a kind of file, by which an editor completes and checks
what is written."""

from unteach import plugins
from unteach.config.verb_configs import SchemaConfig
from unteach.editor import schemas
from unteach.errors import UserError, describe_unknown
from unteach.verbs.listing import fill, find_homes, parse_plugins


def run(config: SchemaConfig) -> None:
    """Print a schema; without a kind, the kinds that there are."""
    if not config.names:
        for kind, (about, _) in schemas.BUILDERS.items():
            print(fill(f"  {kind:<11}", about))
        return
    if len(config.names) > 1 or config.names[0] not in schemas.BUILDERS:
        names = " ".join(config.names)
        raise UserError(describe_unknown("kind of file", names, schemas.BUILDERS))
    with plugins.use_plugins(parse_plugins(config.plugins)):
        schema = schemas.build(config.names[0], find_homes(config.config_dirs))
    print(schemas.dump(schema), end="")
