"""The reference: the frozen policy that a method compares with, in the cheapest form that is exact.

Answer log-probs are computed once, before the first step, with the policy itself, and kept in a table: no second model
is held. Logits need a frozen copy, which gives its last hidden states; its head makes the logits chunk by chunk.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unteach import runs
from unteach.models.forward import Answers, Want, head_logits, positions

if TYPE_CHECKING:
    from torch import Tensor


Needed = dict[str, Literal["logprobs"] | Want]
"""What a method compares with, a stream: answer log-probs, or what a pass of the frozen model should yield."""


@dataclass
class Logits:
    """The reference's side of a batch for one stream: last hidden states [N, d], and the head that reads them."""

    hidden: "Tensor"
    model: Any

    def kl_to(self, logits: "Tensor", labels: "Tensor", hidden: "Tensor") -> "Tensor":
        """KL(reference || policy) over the vocabulary, at each position: [n, V], [n, d] -> [n]."""
        import torch

        with torch.no_grad():
            own = head_logits(self.model, hidden).float().log_softmax(-1)
        return (own.exp() * (own - logits.log_softmax(-1))).sum(-1)


class Table:
    """Answer log-probs of every row of a stream, flat, with where each row starts."""

    def __init__(self, values: "Tensor", starts: "Tensor"):
        self.values, self.starts = values, starts

    @classmethod
    def of_rows(cls, rows: "list[Tensor]") -> "Table":
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        return cls(torch.cat(rows) if rows else torch.zeros(0), torch.cat([torch.zeros(1).long(), lengths.cumsum(0)]))

    def look_up(self, batch: dict[str, Any], stream: str) -> Answers:
        """The table's entries for the answer tokens of a batch, in the order in which a pass would give them."""
        import torch

        rows = batch["rows"][stream]
        _, label, row = positions(batch, rows, "answer")
        device = label.device
        order = torch.arange(len(row), device=device)
        first_of_row = torch.searchsorted(row, row)  # rows come in order, so this is where each position's row begins
        numbers = batch["number"][rows[0] : rows[1]]
        where = self.starts.to(device)[numbers[row]] + order - first_of_row
        return Answers(self.values.to(device)[where], label, row, batch["weight"][rows[0] : rows[1]])

    def save(self, path: Path) -> None:
        from safetensors.torch import save_file

        with runs.replacing(path) as temporary:
            save_file({"values": self.values, "starts": self.starts}, temporary)

    @classmethod
    def load(cls, path: Path) -> "Table":
        from safetensors.torch import load_file

        kept = load_file(path)
        return cls(kept["values"], kept["starts"])


def compute_table(model: Any, batches: Iterable[dict[str, Any]], stream: str, size: int, gather: Any = None) -> Table:
    """Runs the model over a stream once, without gradients, and keeps the log-prob of every answer token.

    `batches` are this process's; `gather` collects the (row, log-probs) pairs of all processes.
    """
    import torch

    pairs: list[tuple[int, Tensor]] = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            found = model(batch=batch, want={stream: Want()})[stream]
            start, stop = batch["rows"][stream]
            for i, number in enumerate(batch["number"][start:stop].tolist()):
                pairs.append((number, found.value[found.row == i].float().cpu()))
    model.train(was_training)
    if gather is not None:
        pairs = gather(pairs)
    rows: list[Tensor] = [torch.zeros(0)] * size
    for number, values in pairs:
        rows[number] = values
    return Table.of_rows(rows)


class Reference:
    """Answers, for each batch, what a method's `reference()` declares: tables and at most one frozen model."""

    def __init__(self, needed: Needed, tables: dict[str, Table] | None = None, frozen: Any = None):
        self.needed, self.tables, self.frozen = needed, tables or {}, frozen

    def on(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The reference's side of a batch: a stream's log-probs as Answers, or its Logits."""
        import torch

        found: dict[str, Any] = {s: self.tables[s].look_up(batch, s) for s in self.needed if s in self.tables}
        want = {stream: kind for stream, kind in self.needed.items() if isinstance(kind, Want)}
        if want:
            with torch.no_grad():
                answers = self.frozen(batch=batch, want=want)
            found |= {stream: Logits(answer.value, self.frozen) for stream, answer in answers.items()}
        return found
