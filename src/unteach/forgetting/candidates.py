"""The models that a request tries: a run and an audit of each method, and what becomes of them."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from unteach import atomic, run_dir
from unteach.config.forget import ForgetConfig
from unteach.errors import Diverged
from unteach.forgetting import runs
from unteach.forgetting.choice import Candidate, choose, read_candidate
from unteach.forgetting.leak_by_budget import TRAININGS
from unteach.forgetting.recipes import Recipe
from unteach.forgetting.texts import Texts
from unteach.json_files import read_mapping
from unteach.models.loading import LoadedModel
from unteach.studies.plan import PlannedRun

MODEL, BEST = run_dir.FORGET_MODEL, "best_candidate"
"""The model that is given, and the name of the best one where none is good enough."""
CHOSEN = "chosen.json"
"""The file of a request that says which method was chosen."""
REFERENCE = "reference"
"""The folder of a run in which its landing keeps what the model said before."""


def plan_candidates(
    config: ForgetConfig,
    folder: Path,
    recipes: Sequence[Recipe],
    texts: Texts,
    empty: LoadedModel,
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Plan a run and an audit of each method, by the size of the model and what holds it."""
    num_parameters = sum(parameter.numel() for parameter in empty.model.parameters())
    methods, audits = [], []
    for recipe in recipes:
        method = runs.plan_candidate(
            config, folder, recipe, texts, num_parameters, empty.adapter is not None
        )
        methods.append(method)
        audited = Path(method.folder)
        audits.append(runs.plan_audit(config, folder, audited, texts, after=(method.name,)))
    return methods, audits


def take_needed(methods: Sequence[PlannedRun]) -> Sequence[PlannedRun]:
    """Take methods up to the first that leaves nothing, and those that are done already: of no
    other could less come out, and it would be chosen before that one by its utility alone."""
    needed = []
    has_clear = False
    for method in methods:
        folder = Path(method.folder)
        is_done = run_dir.is_done(folder / run_dir.AUDIT)
        if is_done or not has_clear:
            needed.append(method)
        has_clear |= is_done and read_candidate(method.name, folder).is_clear
    return needed


def read_candidates(
    methods: Sequence[PlannedRun],
) -> tuple[list[Candidate], list[str]]:
    """Read what the methods came to, and name those that came to nothing.

    Raises:
        Diverged: none came to a model.
    """
    candidates, failed = [], []
    for one in methods:
        if run_dir.is_done(Path(one.folder) / run_dir.AUDIT):
            candidates.append(read_candidate(one.name, Path(one.folder)))
        else:
            failed.append(one.name)
    if not candidates:
        raise Diverged("no method came to a model; what happened stands above")
    return candidates, failed


def choose_once(candidates: Sequence[Candidate], folder: Path) -> Candidate:
    """Choose among what methods came to; what was chosen once stays so, whatever a method that was
    tried again after a kill comes to."""
    file = folder / CHOSEN
    if not file.exists():
        atomic.write_json(file, {"method": choose(candidates).method})
    method = read_mapping(file, "which method was chosen")["method"]
    return next(candidate for candidate in candidates if candidate.method == method)


def give(chosen: Candidate, folder: Path) -> Path:
    """Put the chosen model into its place."""
    to = folder / (MODEL if chosen.is_good or chosen.is_exact else BEST)
    if not to.exists():
        with atomic.atomic_write_folder(to) as temporary:
            shutil.copytree(chosen.folder / run_dir.FINAL, temporary, dirs_exist_ok=True)
    return to


def delete_weights(methods: Sequence[PlannedRun]) -> None:
    """Delete the weights of all that was tried or begun, and of the trainings of its audits: they
    still know of the rows."""
    for method in methods:
        folder = Path(method.folder)
        weights = [folder / name for name in (run_dir.FINAL, REFERENCE, TRAININGS)]
        for path in (*weights, *folder.glob("checkpoint-*")):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
