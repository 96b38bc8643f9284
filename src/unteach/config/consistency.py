"""Whether the sections of a configuration fit one another: streams, what is measured, folders,
seeds, processes."""

import fnmatch
from typing import Any

from unteach.config.audits import AuditSettings
from unteach.config.files import FILE_KEYS, Files
from unteach.config.reader import Reader
from unteach.config.schema import (
    BESIDE,
    LANDING,
    NO_LANDING,
    REFUSAL,
    STREAMS,
    DataConfig,
    TheirTrainer,
    TrainerConfig,
)
from unteach.config.suites import MEASURED_KINDS, SuiteConfig
from unteach.errors import find_nearest


def check_names_and_seed(reader: Reader, built: dict[str, Any]) -> None:
    """What names a folder must name one of its own, a seed must fit every generator, nproc must
    have its launch."""
    name = built.get("task_name")
    paths = built.get("paths")
    seed = built.get("seed")
    if isinstance(name, str) and not _is_folder_name(name):
        reader.wrong(
            "task_name",
            f"names the run's folder saves/<mode>/<task_name>; {name!r} cannot",
        )
    if paths:
        folder = paths.output_dir
        if not folder.strip() or not folder.isprintable():
            reader.wrong("paths.output_dir", f"must name a folder, got {folder!r}")
    nproc = built.get("nproc")
    if nproc is not None and built.get("launch") is None:
        reader.wrong(
            "nproc",
            "says how many processes launch starts: set launch too (`unteach list launch`)",
        )
    elif isinstance(nproc, int) and nproc < 1:
        reader.wrong("nproc", f"must be 1 or more, got {nproc}")
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        reader.wrong("seed", f"must be from 0 to {2**32 - 1}, got {seed}")


def _is_folder_name(name: str) -> bool:
    """Whether a name is a path below a folder, each part with a name of its own."""
    parts = name.split("/")
    return name.isprintable() and not {"", ".", ".."}.intersection(parts)


def reports_to(trainer: TrainerConfig | None, tracker: str) -> bool:
    """Whether a run sends its metrics to a tracker."""
    if trainer is None:
        return False
    trackers = trainer.args.get("report_to")
    if not isinstance(trackers, list):
        trackers = [trackers]
    return tracker in trackers or "all" in trackers


def check_streams(
    reader: Reader,
    trainer: TrainerConfig,
    data: DataConfig | None,
) -> None:
    """A method that lacks a stream cannot run, and a stream that nothing knows is a name
    misspelled.

    A stream may stand beside others in the rows of one (schema.BESIDE).
    """
    wanted = trainer.method.streams() if trainer.method else ()
    if data is None or not wanted:
        return
    available = {name for name, datasets in data.streams.items() if datasets}
    available |= _list_file_streams(data.files)
    has = ", ".join(sorted(available)) or "none"
    lacking = [BESIDE.get(name, name) for name in wanted if name not in available]
    for name in dict.fromkeys(lacking):
        if name not in available:
            mend = _explain_stream(name, data.files)
            reader.wrong(
                f"data.{name}",
                f"trainer.handler={trainer.handler} trains on the stream {name!r}; this run has "
                f"{has}. {mend}",
            )
    reader.known({*STREAMS, *wanted}, data.streams, "data")
    if LANDING in data.streams and not trainer.does_land:
        reader.wrong(f"data.{LANDING}", NO_LANDING)


def check_audited(reader: Reader, settings: AuditSettings | None, data: DataConfig | None) -> None:
    """An audit has attacks, and asks for the rows that were to be forgotten."""
    if settings is None and not reader.problems:
        reader.wrong("audit", "an audit needs a level: audit=quick (`unteach list audits`)")
    available = set(data.streams) | _list_file_streams(data.files) if data else set()
    if "forget" not in available:
        reader.wrong(
            "data.forget",
            "an audit asks for rows that were to be forgotten, and none are named: forget=FILE, or "
            "data.forget=DATASET",
        )


def _explain_stream(stream: str, files: Files | None) -> str:
    """Say how a stream that is missing is given: a file beside files of one's own, a dataset beside
    datasets."""
    if stream == REFUSAL:
        return f"Give prompts that the model refuses to answer: {stream}=FILE, or data.{stream}"
    if files is None or f"{stream}_file" not in FILE_KEYS:
        return f"Set data.{stream}=DATASET (see `unteach list datasets`)"
    short = stream if stream in ("forget", "retain", "holdout") else f"data.{stream}_file"
    return f"Give its rows too: {short}=FILE"


def check_samples(
    reader: Reader,
    trainer: TrainerConfig,
    data: DataConfig | None,
) -> None:
    """Samples are of rows that the run trains on, and made at moments that it has."""
    samples = trainer.samples
    if samples is None or data is None:
        return
    trained = tuple(data.streams)
    if trainer.method:
        trained = trainer.method.streams() or trained
    if samples.stream is not None and samples.stream not in trained:
        allowed = ", ".join(trained)
        reader.wrong(
            "trainer.samples.stream",
            f"must be one of {allowed}, got {samples.stream}",
        )
    if getattr(trainer.method, "ROWS", None) in ("classes", "numbers"):
        reader.wrong(
            "trainer.samples",
            f"{trainer.handler} trains a classifier, which generates no text",
        )
    if samples.every is None and trainer.args.get("eval_strategy", "no") == "no":
        reader.wrong(
            "trainer.samples.every",
            "is required where trainer.args.eval_strategy is no: the steps from one look to the "
            "next",
        )


def _list_file_streams(files: Files | None) -> set[str]:
    """List the streams that files give; rows to forget, and to retain, may stand in train_file."""
    if files is None:
        return set()
    streams = {stream for stream in STREAMS if files.get_source(stream) is not None}
    if "train" in streams:
        streams |= {"forget", "retain"}
    return streams


def check_measured(
    reader: Reader,
    trainer: TrainerConfig,
    suites: dict[str, SuiteConfig],
    held_out: bool,
) -> None:
    """What is measured while training must fit the method; keeping the best and stopping early go
    by it."""
    method = trainer.method
    handler = trainer.handler
    measured = []
    for name, suite in suites.items():
        measured += [f"{name}_{metric}" for metric in suite.list_metrics()]
    if isinstance(method, TheirTrainer):
        if held_out:
            reader.wrong(
                "data.validation",
                f"{handler} says its own loss; rows held out are measured by a method's",
            )
    elif method is not None:
        if held_out:
            measured.append("loss")
            measured += method.metric_names() if method.is_finetuning() else ("perplexity",)
        if method.ROWS in ("classes", "numbers"):
            asks_language_model = {
                "eval": suites,
                "trainer.guard": trainer.guard,
                "trainer.samples": trainer.samples,
            }
            for name, section in asks_language_model.items():
                if not section:
                    continue
                reader.wrong(
                    name,
                    f"asks a language model, and trainer.handler={handler} trains none; leave it "
                    "out (data.validation measures a classifier)",
                )
    _check_best(reader, trainer.args, measured)


def check_own_rows(
    reader: Reader,
    trainer: TrainerConfig | None,
    suites: dict[str, SuiteConfig],
    data: DataConfig | None,
) -> None:
    """A suite of the run's own rows needs rows with answers, and an evaluation reads `data` for
    such a suite alone."""
    own = [name for name, suite in suites.items() if suite.reads_own_rows()]
    for name in own:
        if suites[name].retain_model:
            reader.wrong(
                f"eval.{name}.retain_model",
                "no metric of rows of your own reads its log; evaluate it by itself, and `unteach "
                "report` shows both",
            )
    if trainer is None:
        if data is not None and not own:
            reader.wrong(
                "data",
                "no suite of this evaluation reads it; the suite of rows of your own does: "
                "eval=rows",
            )
        return
    kind = getattr(trainer.method, "ROWS", "answers")
    # classifiers are refused with all that ask a model
    if kind not in (*MEASURED_KINDS, "classes", "numbers"):
        for name in own:
            reader.wrong(
                f"eval.{name}",
                f"measures prompts with answers, or text, and trainer.handler={trainer.handler} "
                f"trains on {kind}; leave it out",
            )


def _check_best(reader: Reader, args: dict[str, Any], measured: list[str]) -> None:
    """Keeping the best and stopping early go by a metric that is measured while training."""
    best = args.get("metric_for_best_model")
    go_by_metric = {
        "load_best_model_at_end": bool(args.get("load_best_model_at_end")),
        "save_strategy": args.get("save_strategy") == "best",
        "early_stopping_patience": args.get("early_stopping_patience") is not None,
    }
    needing = [name for name, needs_metric in go_by_metric.items() if needs_metric]
    if best is None and needing:
        hint = "one of what eval measures, or loss where rows are held out"
        reader.wrong(f"trainer.args.{needing[0]}", f"needs metric_for_best_model, {hint}")
    if best is None:
        return
    if not measured or args.get("eval_strategy", "no") == "no":
        reader.wrong(
            "trainer.args.metric_for_best_model",
            "nothing is measured while training: set eval_strategy, and eval or data.validation",
        )
    elif isinstance(best, str) and not _is_measured(best.removeprefix("eval_"), measured):
        guess = find_nearest(best, measured)
        allowed = ", ".join(measured)
        hint = f"did you mean {guess}?" if guess else f"it may be {allowed}"
        reader.wrong("trainer.args.metric_for_best_model", f"{best!r} is not measured; {hint}")


def _is_measured(metric: str, measured: list[str]) -> bool:
    """Whether a metric is among those measured, which may be patterns."""
    return any(fnmatch.fnmatchcase(metric, pattern) for pattern in measured)
