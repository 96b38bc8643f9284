"""The laws of streams: every anchor row once an epoch, nothing repeated, nothing changed by how a step is dealt."""

from hypothesis import given
from hypothesis import strategies as st

from unteach.data.streams import MicroBatches, Steps, Stream

sizes = st.integers(1, 40)


def steps(anchor: int, other: int, size: int, seed: int = 0) -> Steps:
    streams = {name: Stream(name, [list(range(n))]) for name, n in (("forget", anchor), ("retain", other))}
    return Steps(streams, "forget", size, seed)


@given(sizes, sizes, st.integers(1, 16), st.integers(0, 3))
def test_an_epoch_visits_every_anchor_row_once(anchor: int, other: int, size: int, epoch: int) -> None:
    drawn = [steps(anchor, other, size).draw(epoch, s) for s in range(len(steps(anchor, other, size)))]
    assert sorted(row for step in drawn for row, _ in step["forget"]) == list(range(anchor))
    assert all(len(step["forget"]) == len(step["retain"]) for step in drawn)


@given(sizes, sizes, st.integers(1, 16))
def test_other_streams_run_without_replacement(anchor: int, other: int, size: int) -> None:
    made = steps(anchor, other, size)
    seen = [place for epoch in range(3) for s in range(len(made)) for place in made.draw(epoch, s)["retain"]]
    assert len(set(seen)) == len(seen), "a row came twice within one run through the stream"
    for cycle in range(seen[-1][1]):
        assert sorted(row for row, c in seen if c == cycle) == list(range(other))


@given(sizes, sizes, st.sampled_from([(8, 1), (4, 2), (2, 4), (1, 8)]), st.sampled_from([1, 2]))
def test_dealing_changes_no_row(anchor: int, other: int, split: tuple[int, int], world: int) -> None:
    made = steps(anchor, other, 8 * world)
    per_device, accumulation = split
    for step in range(len(made)):
        hands = made.deal(0, step, accumulation * world)
        assert all(len(hand) == 2 * per_device for hand in hands)
        for stream, rows in made.draw(0, step).items():
            dealt = [(slot.row, slot.epoch) for hand in hands for slot in hand if slot.stream == stream and slot.weight]
            assert sorted(dealt) == sorted(rows)


@given(sizes, st.integers(1, 4), st.integers(1, 3))
def test_ranks_share_a_step_without_overlap(anchor: int, accumulation: int, world: int) -> None:
    made = steps(anchor, 5, 2 * accumulation * world)
    ranks = [list(MicroBatches(made, accumulation, rank, world)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(made) * accumulation}
    real = [slot.row for rank in ranks for batch in rank for slot in batch if slot.stream == "forget" and slot.weight]
    assert sorted(real) == list(range(anchor))


@given(st.integers(0, 1000), st.integers(0, 5))
def test_the_order_is_a_function_of_seed_epoch_and_step(seed: int, epoch: int) -> None:
    assert steps(17, 9, 4, seed).draw(epoch, 2) == steps(17, 9, 4, seed).draw(epoch, 2)
