"""What watches a run: its metrics file, progress line and loss plot; where asked for, samples and a profile."""

from pathlib import Path

from unteach import runs
from unteach.config import schema
from unteach.data.streams import Stream
from unteach.engines.processes import Processes
from unteach.models.loading import Loaded
from unteach.training import plot
from unteach.training.callbacks import MetricsFile, Progress, Watcher
from unteach.training.profiler import ProfileTrace
from unteach.training.samples import SampleFile


def watchers(
    config: schema.Config, loaded: Loaded, streams: dict[str, Stream], anchor: str, folder: Path, here: Processes,
) -> list[Watcher]:  # fmt: skip
    """Everything that watches a run."""
    assert config.trainer is not None
    found: list[Watcher] = [MetricsFile(folder / runs.METRICS), Progress(config.task_name)]
    if here.first:
        found.append(LossPlot(folder))
    if samples := config.trainer.samples:
        found.append(SampleFile(samples, loaded, streams[samples.stream or anchor], folder, config.seed))
    if config.trainer.profiler:
        found.append(ProfileTrace(config.trainer.profiler, folder))
    return found


class LossPlot(Watcher):
    """Draws `loss.png` once training is over or was interrupted."""

    def __init__(self, folder: Path):
        self.folder = folder

    def close(self) -> None:
        plot.loss_png(self.folder)
