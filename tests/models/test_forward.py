"""The one forward: equal to the library's own, chunked or not, padded on either side."""

from typing import Any

import pytest
import torch

from unteach.models import forward
from unteach.models.forward import OutputSpec, logprob


def batch_of(rows: list[list[int]], prompt: int, left: bool) -> dict[str, Any]:
    longest = max(map(len, rows))

    def pad(row: list[int], filler: int) -> list[int]:
        padding = [filler] * (longest - len(row))
        return padding + row if left else row + padding

    ids = torch.tensor([pad(row, 0) for row in rows])
    labels = torch.tensor([pad([-100] * prompt + row[prompt:], -100) for row in rows])
    mask = torch.tensor([pad([1] * len(row), 0) for row in rows])
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "weight": torch.ones(len(rows)),
        "rows": {"a": (0, 1), "b": (1, len(rows))},
    }


ROWS = [[5, 9, 33, 17, 8, 2], [7, 41, 12, 2], [6, 13, 14, 15, 16, 21, 22, 2]]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("chunk", [None, 800])
def test_log_probs_are_the_librarys(
    tiny: Any, left: bool, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk:
        monkeypatch.setattr(forward, "CHUNK_ELEMENTS", chunk)  # two positions a chunk
    batch = batch_of(ROWS, 2, left)
    found = tiny.model(batch=batch, want={"a": OutputSpec(), "b": OutputSpec()})
    for stream, rows in (("a", ROWS[:1]), ("b", ROWS[1:])):
        for i, row in enumerate(rows):
            logp = tiny.model(torch.tensor([row])).logits[0].log_softmax(-1)
            expected = torch.stack([logp[t - 1, row[t]] for t in range(2, len(row))])
            assert torch.allclose(found[stream].value[found[stream].row == i], expected, atol=1e-5)
    assert found["b"].lengths().tolist() == [2, 6]


def test_chunks_change_no_gradient(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> torch.Tensor:
        tiny.model.zero_grad(set_to_none=True)
        tiny.model(batch=batch_of(ROWS, 2, False), want={"b": OutputSpec()})[
            "b"
        ].value.sum().backward()
        return torch.cat([p.grad.flatten() for p in tiny.model.parameters()])

    whole = gradient()
    monkeypatch.setattr(forward, "CHUNK_ELEMENTS", 800)
    assert torch.allclose(whole, gradient(), atol=1e-5)
    tiny.model.zero_grad(set_to_none=True)


def test_no_logits_of_the_whole_batch_are_made(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "CHUNK_ELEMENTS", 800)
    widest = 0

    def watching(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal widest
        widest = max(widest, len(logits))
        return logprob(logits, labels)

    tiny.model(batch=batch_of(ROWS, 2, False), want={"b": OutputSpec(fn=watching)})
    assert widest == 2


def test_without_want_the_forward_is_the_librarys(tiny: Any) -> None:
    import transformers

    plain = transformers.LlamaForCausalLM(tiny.model.config)
    plain.load_state_dict(tiny.model.state_dict())
    ids = torch.tensor([ROWS[0]])
    assert torch.equal(tiny.model(ids).logits, plain.eval()(ids).logits)


def test_all_positions_leave_padding_out(tiny: Any) -> None:
    for left in (False, True):
        found = tiny.model(batch=batch_of(ROWS, 2, left), want={"b": OutputSpec(positions="all")})[
            "b"
        ]
        assert found.lengths().tolist() == [3, 7]
        assert found.label.tolist() == [*ROWS[1][1:], *ROWS[2][1:]]
