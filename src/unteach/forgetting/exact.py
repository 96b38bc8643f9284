"""The exact way: the run that taught a model the rows of a request, taught anew without them.

What comes of it never saw the rows, so nothing of them had to be taken out. It costs a training,
and is there only where the run's rows are still at hand.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unteach import atomic, run_dir
from unteach.audits.facts import Fact, read_facts
from unteach.audits.session import build_stream
from unteach.audits.taught_rows import group_by_row, list_texts, locate_row
from unteach.config.forget import LAUNCH_WORDS, NO, YES, ForgetConfig
from unteach.config.overrides import spell_value
from unteach.config.schema import PATH
from unteach.config.tree import to_yaml
from unteach.data.duplicates import find_column_keys
from unteach.errors import UserError
from unteach.forgetting import runs
from unteach.forgetting.choice import EXACT
from unteach.forgetting.earlier import EarlierRequest, find_earlier
from unteach.forgetting.row_search import RequestedFacts, TaughtFacts
from unteach.forgetting.trained_run import (
    TRAIN,
    NoExactWay,
    TaughtPart,
    TrainedRun,
    list_starts,
    open_trained_run,
    refuse_emptied,
    refuse_other_start,
    write_run_without,
)
from unteach.json_files import read_mapping
from unteach.models import loading
from unteach.studies.plan import PlannedRun
from unteach.wording import describe_minutes, format_count

WAY, RUN_FILE, RETRAINED = "way.json", "run.yaml", "retrained"
"""In the folder `exact/` of a request: what was found, the run without the rows, and its folder."""


@dataclass(frozen=True)
class ExactWay:
    """Whether a model can be taught anew without the rows of a request, and at what price.

    Attributes:
        possible: None where nobody looked.
        reason: why it is not possible; None where it is.
        run: the run that made the model; None where no run did.
        seconds: that the training will take, by the run's own log; None where that does not say it.
        seconds_a_row: that a row takes in its training; None likewise.
        num_rows_found: rows of the request that the run was taught.
        missing: where the others stand.
        num_left_out: rows of its data that hold them, or what an earlier request took out.
        num_rows_alike: rows that stay, and hold the entity and the value of a row that goes.
    """

    possible: bool | None
    reason: str | None = None
    run: str | None = None
    seconds: float | None = None
    seconds_a_row: float | None = None
    num_rows_found: int = 0
    missing: Sequence[str] = ()
    num_left_out: int = 0
    num_rows_alike: int = 0


NOT_LOOKED_FOR = ExactWay(None, "not looked for")


@dataclass(frozen=True)
class _Found:
    """A run that can be taught anew, and what it holds of a request, by the parts of its data."""

    run: TrainedRun
    facts: Sequence[Fact]
    by_part: dict[tuple[str, str], TaughtFacts]

    @property
    def fact_indices(self) -> set[int]:
        """Of the request's own facts, those that the run was taught."""
        indices = set().union(*(found.fact_indices for found in self.by_part.values()))
        return {index for index in indices if index < len(self.facts)}

    def sort_rows(self) -> tuple[list[str], list[str]]:
        """Say where the rows of the request stand: those that the run was taught a fact of, and the
        others."""
        taught: list[str] = []
        missing: list[str] = []
        for facts in group_by_row(self.facts):
            is_taught = any(fact.index in self.fact_indices for fact in facts)
            (taught if is_taught else missing).append(locate_row(facts))
        return taught, missing

    def list_left_out(self, part: TaughtPart) -> frozenset[int]:
        return self.by_part[part.stream, part.name].row_indices


def find_way(config: ForgetConfig, folder: Path) -> ExactWay:
    """Find the run that taught a model the rows of a request, and price its training without them.

    Args:
        config: the request.
        folder: of the request; what is written there already holds.

    Raises:
        UserError: the exact way is asked for, and there is none.
    """
    if config.exact == NO:
        return NOT_LOOKED_FOR
    written = folder / EXACT / WAY
    if config.exact == YES and written.exists():
        return ExactWay(**read_mapping(written, "the exact way of a request"))
    earlier = find_earlier(config.model)
    if earlier is not None:
        config = replace(config, model=earlier.model)
    run_folder = find_run_folder(config.model)
    try:
        found = _find(config, folder, run_folder, earlier)
    except NoExactWay as error:
        if config.exact == YES:
            raise UserError(f"exact=yes: {error}. exact=auto searches among methods") from None
        return ExactWay(False, str(error), str(run_folder) if run_folder else None)
    seconds, pace = _read_pace(found.run)
    taught, missing = found.sort_rows()
    return ExactWay(
        possible=True,
        run=str(found.run.folder),
        seconds=_price_run(found, seconds),
        seconds_a_row=pace,
        num_rows_found=len(taught),
        missing=missing,
        num_left_out=sum(len(one.row_indices) for one in found.by_part.values()),
        num_rows_alike=sum(one.num_alike for one in found.by_part.values()),
    )


def find_run_folder(model: str) -> Path | None:
    """Find the folder of the run that made a model; None where no run of ours did.

    The model is named by the run's folder, by its final model, or as what an exact request gave.
    """
    path = Path(run_dir.find_model_folder(str(Path(model).expanduser())))
    run_folder = path
    if path.name == run_dir.FINAL:
        run_folder = path.parent
    elif path.name == run_dir.FORGET_MODEL:
        run_folder = path.parent / EXACT / RETRAINED
    return run_folder if (run_folder / run_dir.CONFIG).is_file() else None


def _find(
    config: ForgetConfig, folder: Path, run_folder: Path | None, earlier: EarlierRequest | None
) -> _Found:
    """Find what the run of a model holds of a request, and of an earlier one that the model came
    of.

    Raises:
        NoExactWay: there is no such run, it cannot be taught anew, it was not taught the rows, or
            what it started from was.
    """
    if run_folder is None:
        raise NoExactWay(f"{config.model} is no run of unteach train, nor the final model of one")
    run = open_trained_run(run_folder)
    refuse_other_start(run)
    facts = _read_request(config, folder)
    requested = RequestedFacts([*facts, *_read_earlier_facts(earlier, len(facts))])
    found = _Found(run, facts, _find_in_parts(run, requested))
    if not found.fact_indices:
        num_rows = format_count(len(group_by_row(facts)), "row")
        raise NoExactWay(f"the data of {run_folder} holds none of the {num_rows}")
    refuse_emptied(run, found.list_left_out)
    _refuse_taught_start(run, requested)
    return found


def _read_request(config: ForgetConfig, folder: Path) -> list[Fact]:
    """Read the rows of a request."""
    composed = runs.compose_audit(runs.plan_look(config, folder))
    forget, _ = build_stream(composed, loading.load_empty(composed.model), "forget")
    assert forget is not None, "the configuration is checked for it"
    return read_facts(forget)


def _read_earlier_facts(earlier: EarlierRequest | None, first_index: int) -> list[Fact]:
    """Read what an earlier request took out, which is left out too; none where there was none."""
    if earlier is None:
        return []
    facts = []
    for index, row in enumerate(earlier.taught, first_index):
        *before, answer = list_texts(row)
        facts.append(
            Fact(
                index=index,
                place=str(earlier.folder),
                question=before[-1] if before else "",
                answer=answer,
                value=str(row.get("value", answer)),
                entity=str(row.get("entity", "")),
            )
        )
    return facts


def _find_in_parts(
    run: TrainedRun, requested: RequestedFacts
) -> dict[tuple[str, str], TaughtFacts]:
    found = {}
    for part in run.parts:
        keys = find_column_keys(part.dataset.cls, part.dataset.args)
        found[part.stream, part.name] = requested.find(part.rows, keys)
    return found


def _refuse_taught_start(run: TrainedRun, requested: RequestedFacts) -> None:
    """Refuse a run whose starting model, or one before that, was taught rows of the request."""
    waiting = list_starts(run.config.model.model_args.get(PATH))
    seen = {run.folder.resolve()}
    while waiting:
        model = waiting.pop()
        before = _find_model_before(model)
        if before is not None:
            # What a request took out of it was there.
            waiting.append(before)
            continue
        folder = find_run_folder(model)
        if folder is None or folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        try:
            start = open_trained_run(folder)
        except NoExactWay as error:
            raise NoExactWay(
                f"{run.folder} started from {folder}, and nobody can look whether that was taught "
                f"the rows too: {error}"
            ) from None
        parts = _find_in_parts(start, requested).values()
        num_taught = len(set().union(*(part.fact_indices for part in parts)))
        if num_taught:
            raise NoExactWay(
                f"{run.folder} started from {folder}, which was taught "
                f"{format_count(num_taught, 'row')} of the request too: to teach the one anew "
                "would not be exact"
            )
        waiting += list_starts(start.config.model.model_args.get(PATH))


def _find_model_before(model: str) -> str | None:
    """Find the model that the request which a model came of began at; None where it came of none.

    Raises:
        NoExactWay: that is gone.
    """
    try:
        earlier = find_earlier(model)
    except UserError as error:
        raise NoExactWay(str(error)) from None
    return earlier.model if earlier is not None else None


def _read_pace(run: TrainedRun) -> tuple[float | None, float | None]:
    """Read from a run's log how many seconds it took, and how many a row; None where the log does
    not say it."""
    last = run_dir.read_last_metrics(run.folder) or {}
    seconds, step, epoch = last.get("train_runtime"), last.get("step"), last.get("epoch")
    if not seconds or not step:
        return None, None
    # The time of a run that went on is that of its steps since.
    manifest = read_mapping(run.folder / run_dir.MANIFEST, "the run's manifest")
    resumed_at = manifest.get("resumed_at") or 0
    if resumed_at >= step:
        return None, None
    whole = seconds * step / (step - resumed_at)
    return whole, whole / (epoch * run.num_rows) if epoch else None


def _price_run(found: _Found, seconds: float | None) -> float | None:
    """Price a run without rows: by the share that stays, or whole where it counts its steps."""
    if seconds is None or found.run.config.trainer.args.get("max_steps", -1) > 0:
        return seconds
    num_left_out = 0
    for part in found.run.parts:
        if part.stream == TRAIN:
            num_left_out += len(found.list_left_out(part))
    return seconds * (1 - num_left_out / found.run.num_rows)


def describe_way(way: ExactWay, word: str) -> list[str]:
    """Describe what the exact way costs, or why there is none; nothing where nobody looked.

    Args:
        word: what does it.
    """
    if way.possible is None:
        return []
    if not way.possible:
        return [f"there is no exact way: {way.reason}"]
    num_asked = way.num_rows_found + len(way.missing)
    price = (
        "its log does not say how long" if way.seconds is None else describe_minutes(way.seconds)
    )
    rows = f"{way.num_rows_found} of the {format_count(num_asked, 'row')}"
    lines = [
        f"{way.run} was taught {rows}; to teach it anew without them "
        f"({format_count(way.num_left_out, 'row')} of its data) is exact, and takes {price}: {word}"
    ]
    return lines + list_doubts(way)


def list_doubts(way: ExactWay) -> list[str]:
    """List what a training without the rows may leave."""
    lines = []
    if way.missing:
        places = ", ".join(way.missing[:5])
        more = f" and {len(way.missing) - 5} more" if len(way.missing) > 5 else ""
        lines.append(f"not in its data in these words, so it was not taught them: {places}{more}")
    if way.num_rows_alike:
        lines.append(
            f"{format_count(way.num_rows_alike, 'row')} of its data that stay hold the same entity "
            "and value: those that say the same in other words belong to the request too"
        )
    return lines


def plan_retraining(
    config: ForgetConfig, folder: Path, way: ExactWay, earlier: EarlierRequest | None
) -> PlannedRun:
    """Plan the run again without the rows: its own configuration, over the rows that stay.

    What it reads is written into the folder of the request, once.

    Args:
        config: the request.
        folder: of it.
        way: what was found.
        earlier: the request that the model came of, whose rows are left out too.
    """
    home = folder / EXACT
    if not (home / WAY).exists():
        found = _find(config, folder, Path(str(way.run)), earlier)
        home.mkdir(parents=True, exist_ok=True)
        tree = write_run_without(found.run, found.list_left_out, home)
        tree["task_name"] = RETRAINED
        tree["paths"] = {**tree["paths"], "output_dir": str(home / RETRAINED)}
        atomic.write_text(home / RUN_FILE, to_yaml(tree))
        atomic.write_json(home / WAY, asdict(way))
    words = [
        str(home / RUN_FILE),
        *(word for word in config.words if word.partition("=")[0] in LAUNCH_WORDS),
        f"task_name={RETRAINED}",
        f"paths.output_dir={spell_value(str(home / RETRAINED))}",
    ]
    return PlannedRun(EXACT, TRAIN, TRAIN, tuple(words))


def explain_leaks(is_found: bool, is_tested: bool) -> list[str]:
    """Explain what it means that attacks find something, or could find nothing, in a model that was
    taught anew without the rows."""
    if is_found:
        return [
            "it was taught without the rows, so what the attacks bring out does not come from "
            "them: other rows of its data say it, or the model that it started from knew it"
        ]
    if not is_tested:
        return [
            "it was taught without the rows; whether the attacks could have found anything nothing "
            "says: columns value and kind, holdout= or retain_model= would"
        ]
    return []
