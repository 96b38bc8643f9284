"""What watches a run: its metrics file, display and loss plot; where asked for, samples and a
profile."""

from collections.abc import Container
from pathlib import Path

from unteach import run_dir
from unteach.config import schema
from unteach.config.suites import SuiteConfig
from unteach.data.streams import Stream
from unteach.distributed.process_context import DistContext
from unteach.models.loading import LoadedModel
from unteach.training import plot
from unteach.training.callbacks import MetricsFile, Watcher, make_display
from unteach.training.profiler import ProfileTrace
from unteach.training.samples import SampleFile


def watchers(
    config: schema.TrainConfig,
    loaded: LoadedModel,
    streams: dict[str, Stream],
    anchor: str,
    folder: Path,
    dist: DistContext,
) -> list[Watcher]:
    """Everything that watches a run."""
    display = make_display(config.task_name, UnaskedValues(config.eval))
    found: list[Watcher] = [MetricsFile(folder / run_dir.METRICS), display]
    if dist.is_main:
        found.append(LossPlot(folder))
    if samples := config.trainer.samples:
        found.append(
            SampleFile(samples, loaded, streams[samples.stream or anchor], folder, config.seed)
        )
    if config.trainer.profiler:
        found.append(ProfileTrace(config.trainer.profiler, folder))
    return found


class UnaskedValues(Container[str]):
    """The logged values of suites that were not asked for, but needed by those that were: the file
    has them too."""

    def __init__(self, suites: dict[str, SuiteConfig]):
        self.prefixes = tuple(f"eval_{suite}_" for suite in suites)
        self.asked = {
            f"eval_{suite}_{metric}"
            for suite, config in suites.items()
            for metric in config.asked()
        }

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith(self.prefixes) and name not in self.asked


class LossPlot(Watcher):
    """Draws `loss.png` once training is over or was interrupted."""

    def __init__(self, folder: Path):
        self.folder = folder

    def close(self) -> None:
        plot.loss_png(self.folder)
