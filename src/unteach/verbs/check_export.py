"""`unteach check export RUN to=FOLDER`: what would be exported, and nothing of it."""

from unteach import owner
from unteach.config.verb_configs import ExportConfig
from unteach.console import say
from unteach.export import trained, weights
from unteach.verbs.export import build_options, is_exported, refuse_offline


def run(config: ExportConfig) -> None:
    """Say what would be exported, and where to. The weights are found and not read.

    Raises:
        UserError: what the export would refuse before it reads the weights.
    """
    if config.push:
        refuse_offline(config.push)
    options = build_options(config)
    if options.to is not None:
        owner.refuse_unwritable_beside(options.to)
    source = trained.find_source(config.sources[0])
    file = weights.find(source.location)
    standing = "new"
    if options.to is not None and is_exported(options, source, options.to):
        standing = "exported before"
    say(f"from        {file or source.location}")
    say(f"as          {options.form}, dtype {options.dtype or 'as it is'}")
    if options.to is not None:
        say(f"to          {options.to} ({standing})")
    if config.push:
        say(f"push        {config.push}")
    print("nothing was exported, and nothing was written")
