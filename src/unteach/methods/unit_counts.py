"""The units that terms are divided by, counted from labels and masks alone."""

from typing import TYPE_CHECKING

from unteach.data.batches import Batch
from unteach.data.examples import SEGMENT
from unteach.data.truncation import IGNORED
from unteach.models.positions import find_all_positions, find_continued, find_real_positions

if TYPE_CHECKING:
    from torch import Tensor


def count_units(batch: Batch) -> "dict[str, Tensor]":
    """Count the units of each stream in one micro-batch, as `<stream>.<unit>`.

    Units: `tokens`, predicted labels; `labels`; `all_tokens`, tokens that another precedes;
    `real_tokens`, all but padding; `positions`, padding too; `sequences`.
    """
    counts = {}
    for stream, (start, stop) in batch["rows"].items():
        labels = batch["labels"][start:stop]  # [B, T]
        mask = batch["attention_mask"][start:stop]  # [B, T]
        is_token = mask == 1
        weight = batch["weight"][start:stop]  # [B]
        is_real = weight != 0

        # A token that nothing stands before is predicted by nothing.
        is_predicted = (labels[:, 1:] != IGNORED) & is_token[:, :-1]
        counts[f"{stream}.tokens"] = is_predicted.sum()
        counts[f"{stream}.labels"] = (labels != IGNORED).sum()
        is_followed = is_token[:, 1:] & is_token[:, :-1] & is_real[:, None]
        if SEGMENT in batch:  # not by another document's first token
            is_followed = is_followed & find_continued(batch[SEGMENT][start:stop])[:, :-1]
        counts[f"{stream}.all_tokens"] = is_followed.sum()
        counts[f"{stream}.sequences"] = is_real.sum()
        counts[f"{stream}.real_tokens"] = find_real_positions(mask, weight).sum()
        counts[f"{stream}.positions"] = find_all_positions(mask, weight).sum()
    return counts
