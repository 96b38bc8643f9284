"""What the Python door gives: where a run left its results, and their values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import json_files, notebook_html, run_dir

if TYPE_CHECKING:
    import pandas

    from unteach.models.loading import LoadedModel

Values = Mapping[str, Mapping[str, float | None]]
"""By suite, the value of each metric; None where it could not be taken."""


class _Located:
    """Usable wherever a path is: `open`, `Path`, a word such as f"model={result}"."""

    def _locate(self) -> Path:
        raise NotImplementedError

    def __fspath__(self) -> str:
        return str(self._locate())

    def __str__(self) -> str:
        return str(self._locate())


@dataclass(frozen=True)
class _RunResult(_Located):
    """run_dir: the run's folder. values: by suite, the value of each metric."""

    run_dir: Path
    values: Values = field(default_factory=dict)

    def _locate(self) -> Path:
        return self.run_dir

    def _repr_html_(self) -> str:
        """Show the values in a notebook: a line each."""
        rows = []
        for suite, values in self.values.items():
            for metric, value in values.items():
                rows.append((suite, metric, notebook_html.format_number(value)))
        name = notebook_html.build_paragraph(str(self.run_dir), type(self).__name__)
        return name + notebook_html.build_table(("suite", "metric", "value"), rows)

    def report(self, out: str | Path | None = None) -> Path:
        """Print the table of each suite and write the page with everything.

        Args:
            out: the folder that the page is written to; None: `report` within the run's folder.

        Returns:
            The page.

        Raises:
            UserError: where nothing was evaluated.
        """
        # Late: a result is at hand before anybody wants plots.
        from unteach.verbs.start import start

        folder = self.run_dir / "report" if out is None else Path(out)
        page: Path = start("report", [str(self.run_dir), f"out={folder}"])
        return page


@dataclass(frozen=True)
class TrainResult(_RunResult):
    """A finished run of `train` or `unlearn`. It stands for its folder wherever a path is taken."""

    @property
    def model_dir(self) -> Path:
        """The final model: a plain folder that transformers and vLLM read."""
        return self.run_dir / run_dir.FINAL

    def load(self) -> "LoadedModel":
        """Load the final model with its tokenizer and template."""
        from unteach.verbs.load import load

        return load(self.run_dir)

    def history(self) -> "pandas.DataFrame":
        """Give everything that was logged: one row a step, one column a value."""
        from unteach.verbs.history import get_history

        return get_history(self.run_dir)


@dataclass(frozen=True)
class EvalResult(_RunResult):
    """A finished evaluation. It stands for its folder wherever a path is taken."""


@dataclass(frozen=True)
class AttackOutcome:
    """What one attack brought out of an audited model.

    Attributes:
        rate: the share of the facts that came out.
        interval: of that share, 95 %.
        wrong: the share of wrong answers of the same kind that came out.
        original: the share that comes out of the original; None without one.
        retain: the share that comes out of the retain model; None without one.
        has_power: whether the attack brings out what the original knows; None without one.
        p_value: of as many leaks in a model that never saw the facts; None where that is unknown.
    """

    rate: float
    interval: tuple[float, float]
    wrong: float
    original: float | None
    retain: float | None
    has_power: bool | None
    p_value: float | None


@dataclass(frozen=True)
class AuditResult(_Located):
    """A finished audit. It stands for its folder wherever a path is taken.

    Attributes:
        run_dir: the folder of the results.
        sentence: the verdict.
        leaks: whether more came out than of a model that never saw the facts.
        worst: the share of the facts that any attack brought out.
        attacks: what each brought out, by name; of a training, by its rate and steps.
        absent: why attacks were not made, by name.
    """

    run_dir: Path
    sentence: str
    leaks: bool
    worst: float
    attacks: Mapping[str, AttackOutcome]
    absent: Mapping[str, str]

    def _locate(self) -> Path:
        return self.run_dir

    def _repr_html_(self) -> str:
        """Show the verdict in a notebook, and what each attack brought out."""
        share = notebook_html.format_share
        rows = []
        for name, found in sorted(self.attacks.items(), key=lambda item: -item[1].rate):
            low, high = found.interval
            p_value = notebook_html.format_number(found.p_value)
            beside = map(share, (found.wrong, found.retain, found.original))
            rows.append((name, share(found.rate), f"{low:.0%} to {high:.0%}", *beside, p_value))
        heads = ("attack", "comes out", "95 %", "wrong", "retain", "original", "p")
        verdict = notebook_html.build_paragraph(self.sentence)
        absent = "; ".join(f"{name}: {reason}" for name, reason in self.absent.items())
        untested = notebook_html.build_paragraph(absent, "not tested") if absent else ""
        return verdict + notebook_html.build_table(heads, rows) + untested


@dataclass(frozen=True)
class ForgetResult(_Located):
    """A finished request to forget. It stands for the model that is given wherever a path is taken.

    Attributes:
        run_dir: the folder of the request.
        model_dir: the model.
        method: that it came of.
        kl: how far it moved, in nats a token.
        sentence: what its audit says.
    """

    run_dir: Path
    model_dir: Path
    method: str
    kl: float
    sentence: str

    def _locate(self) -> Path:
        return self.model_dir

    def _repr_html_(self) -> str:
        """Show in a notebook what came of the request."""
        rows = [
            ("model", str(self.model_dir)),
            ("method", self.method),
            ("KL", f"{self.kl:.3g} nats a token"),
        ]
        sentence = notebook_html.build_paragraph(self.sentence)
        return sentence + notebook_html.build_table(("", ""), rows)


@dataclass(frozen=True)
class InferResult(_Located):
    """The answers to every row of a table. It stands for the file wherever a path is taken."""

    output_file: Path

    def _locate(self) -> Path:
        return self.output_file

    def rows(self) -> list[dict[str, Any]]:
        """Read the answers, each with the columns of its row, in the order of the table."""
        rows, _ = json_files.read_log(self.output_file)
        return rows

    def _repr_html_(self) -> str:
        """Show the first answers in a notebook."""
        return notebook_html.build_answers(self.output_file)


def read_audit(folder: Path) -> AuditResult:
    """Read the verdict of an audit from its folder."""
    file = folder / run_dir.AUDIT_SUMMARY
    summary = json_files.read_mapping(file, "the summary of an audit")
    attacks = {}
    for name, found in summary["attacks"].items():
        low, high = found["interval"]
        attacks[name] = AttackOutcome(
            rate=found["rate"],
            interval=(low, high),
            wrong=found["wrong"],
            original=found["original"],
            retain=found["retain"],
            has_power=found["has_power"],
            p_value=found["p_value"],
        )
    return AuditResult(
        folder,
        sentence=summary["sentence"],
        leaks=summary["leaks"],
        worst=summary["worst"],
        attacks=attacks,
        absent=summary["absent"],
    )


def read_values(folder: Path) -> Values:
    """Read the values of every suite that was measured into a folder."""
    values = {}
    for file in sorted(folder.glob("*_SUMMARY.json")):
        suite = file.name.removesuffix("_SUMMARY.json").lower()
        values[suite] = json_files.read_json(file, "the summary of a suite")
    return values


def read_forget(folder: Path) -> ForgetResult:
    """Read what came of a request to forget from its folder."""
    record = json_files.read_mapping(folder / run_dir.FORGET_RECORD, "the record of a request")
    done = record["done"]
    return ForgetResult(
        run_dir=folder,
        model_dir=Path(done["model"]),
        method=str(done["method"]),
        kl=float(done["kl"]),
        sentence=str(record["sentence"]),
    )
