"""`unteach fetch`: download what others published and evaluations or experiments need."""

from pathlib import Path

import huggingface_hub

from unteach.atomic import atomic_write
from unteach.config.verb_configs import FETCHED, FetchConfig
from unteach.errors import UserError
from unteach.lazy import datasets
from unteach.wording import format_count

LOGS = "open-unlearning/eval"
CORPORA = {
    "bio-retain-corpus": ("cais/wmdp-corpora", "bio-retain-corpus"),
    "cyber-forget-corpus": ("cais/wmdp-corpora", "cyber-forget-corpus"),
    "cyber-retain-corpus": ("cais/wmdp-corpora", "cyber-retain-corpus"),
    "bio-forget-corpus": ("cais/wmdp-bio-forget-corpus", None),
}


def run(config: FetchConfig) -> None:
    """Fetch what is named into a folder."""
    [name] = config.names
    folder = Path(config.to or FETCHED[name])
    if name == "retain-logs":
        retain_logs(folder)
    else:
        wmdp(folder)
    print(f"results: {folder}")


def retain_logs(folder: Path) -> None:
    """Fetch every JSON file of the published logs; those that are there already are not fetched
    again.

    Where the hub does not answer, `snapshot_download` takes any folder with something in it for the
    download. So the hub is asked first which files there are, and afterwards each of them must lie
    in the folder.
    """
    try:
        published = huggingface_hub.HfApi().dataset_info(LOGS)
        names = [file.rfilename for file in published.siblings or ()]
        names = [name for name in names if name.endswith(".json")]
        wanted = [name for name in names if not (folder / name).exists()]
        if wanted:
            # By name: what is there may be another log, or the user's own, and would be replaced
            # without a word.
            huggingface_hub.snapshot_download(
                LOGS,
                repo_type="dataset",
                revision=published.sha,
                allow_patterns=wanted,
                local_dir=folder,
            )
    except Exception as error:
        raise _describe_failure(LOGS, error) from None
    if not names:
        raise UserError(f"{LOGS} holds no logs (*.json) any more; nothing was fetched")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(names)} logs of {LOGS} did not arrive in {folder} (the "
            f"first: {missing[0]}). Run the same command again; what arrived stays"
        )
    print(f"logs: {len(wanted)} fetched, {len(names) - len(wanted)} there already")


def wmdp(folder: Path) -> None:
    """Fetch each corpus as JSON lines, whole or not at all; a gated one that is not open to the
    user is said, not fatal."""
    num_landed = 0
    for name, (repository, config) in CORPORA.items():
        target = folder / f"{name}.jsonl"
        if target.exists():
            print(f"there already: {target}")
            num_landed += 1
            continue
        try:
            rows = datasets.load_dataset(repository, config, split="train")
        except Exception as error:
            print(f"not fetched: {_describe_failure(repository, error)}")
            continue
        with atomic_write(target) as temporary:
            rows.to_json(
                temporary,
                lines=True,
                force_ascii=False,
            )
        num_landed += 1
        num_rows = format_count(len(rows), "row")
        print(f"fetched: {target} ({num_rows})")
    if not num_landed:
        raise UserError("nothing could be fetched; the lines above say why")


def _describe_failure(repository: str, error: Exception) -> UserError:
    """Make the error of a repository that was not fetched, with the library's own first line."""
    lines = [line.strip() for line in str(error).splitlines()]
    reason = next(filter(None, lines), type(error).__name__)
    return UserError(
        f"cannot fetch {repository} ({reason}). It needs the network; where it is gated, ask "
        f"for access at https://huggingface.co/datasets/{repository} and run `hf auth login`"
    )
