"""Build what watches a run: its metrics file, display and loss plot; samples and a profile where
they are configured."""

import logging
from collections.abc import Container
from pathlib import Path

from unteach import run_dir
from unteach.config import schema
from unteach.config.suites import SuiteConfig
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.errors import describe_missing_extra, has_extra
from unteach.models.loading import LoadedModel
from unteach.training import plot
from unteach.training.callbacks import MetricsFile, Watcher, build_display
from unteach.training.profiler import ProfileTrace
from unteach.training.samples import SampleFile

logger = logging.getLogger(__name__)


def build_watchers(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    anchor: str,
    run_folder: Path,
    dist: DistContext,
) -> list[Watcher]:
    """Build everything that watches a run."""
    watchers: list[Watcher] = [
        MetricsFile(run_folder / run_dir.METRICS),
        build_display(config.task_name, IntermediateValues(config.eval)),
    ]
    if dist.is_main and has_extra("report"):
        watchers.append(LossPlot(run_folder))
    elif dist.is_main:
        logger.info(f"{plot.FILE} is left out; {describe_missing_extra('report', 'drawing it')}")
    samples = config.trainer.samples
    if samples:
        stream = streams[samples.stream or anchor]
        watchers.append(SampleFile(samples, loaded, stream, run_folder, config.seed))
    if config.trainer.profiler:
        watchers.append(ProfileTrace(config.trainer.profiler, run_folder))
    return watchers


class IntermediateValues(Container[str]):
    """The logged names of metrics that no suite asks for, but that others are computed from.

    The metrics file has them too; the display does not show them.
    """

    def __init__(self, suites: dict[str, SuiteConfig]):
        self.prefixes = tuple(f"eval_{suite}_" for suite in suites)
        self.requested: set[str] = set()
        for suite, config in suites.items():
            self.requested.update(f"eval_{suite}_{metric}" for metric in config.list_metrics())

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name in self.requested:
            return False
        return name.startswith(self.prefixes)


class LossPlot(Watcher):
    """Draw `loss.png` once training is over or was interrupted."""

    def __init__(self, run_folder: Path):
        self.run_folder = run_folder

    def close(self) -> None:
        plot.draw_loss(self.run_folder)
