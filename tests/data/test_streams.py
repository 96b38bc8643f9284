"""The laws of streams: every anchor row once an epoch, nothing repeated, nothing changed by how a
step is dealt."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from unteach.data.steps import MicroBatches, Steps, Turns
from unteach.data.streams import Stream

sizes = st.integers(1, 40)


def steps(anchor: int, other: int, size: int, seed: int = 0, packed: bool = False) -> Steps:
    streams = {name: Stream(name, [rows(n)]) for name, n in (("forget", anchor), ("retain", other))}
    streams["alternate"] = Stream("alternate", [rows(anchor)], follows="forget")
    return Steps(streams, "forget", size, seed, packed)


def rows(count: int) -> list[dict[str, Any]]:
    """Rows of lengths in no order; of each, another answer that is not as long."""
    lengths = [1 + row * 7919 % 31 for row in range(count)]
    return [
        {"input_ids": [0] * n, "alternate": {"input_ids": [0] * (1 + n * 17 % 29)}} for n in lengths
    ]


@given(sizes, sizes, st.integers(1, 16), st.integers(0, 3))
def test_an_epoch_visits_every_anchor_row_once(
    anchor: int, other: int, size: int, epoch: int
) -> None:
    drawn = [
        steps(anchor, other, size).draw(epoch, s) for s in range(len(steps(anchor, other, size)))
    ]
    assert sorted(row for step in drawn for row, _ in step["forget"]) == list(range(anchor))
    assert all(len(step["forget"]) == len(step["retain"]) for step in drawn)


@given(
    st.lists(sizes, min_size=2, max_size=2),
    st.integers(1, 9),
    st.lists(st.integers(1, 4), min_size=2, max_size=2),
    st.sampled_from(["forget", "retain"]),
)
def test_sides_that_take_turns_miss_no_row(
    counts: list[int], size: int, lengths: list[int], anchor: str
) -> None:
    streams = {"forget": Stream("forget", [rows(counts[0])])}
    streams["alternate"] = Stream("alternate", [rows(counts[0])], follows="forget")
    streams["retain"] = Stream("retain", [rows(counts[1])])
    turns = Turns(("forget", "alternate"), (lengths[0], lengths[1]))
    made = Steps(streams, anchor, size, 0, turns=turns)
    steps_by_epoch = [[made.draw(epoch, s) for s in range(len(made))] for epoch in range(2)]

    for epoch, drawn in enumerate(steps_by_epoch):
        # Every step has rows, of one side alone, and an epoch visits every anchor row once.
        assert {frozenset(step) for step in drawn} <= {
            frozenset({"forget", "alternate"}),
            frozenset({"retain"}),
        }
        assert all(all(draws) for draws in map(dict.values, drawn))
        of_anchor = [row for step in drawn for row, _ in step.get(anchor, ())]
        assert sorted(of_anchor) == list(range(counts[("forget", "retain").index(anchor)]))
        # The sides take turns as long as they should, but for the anchor's last in an epoch.
        sides = ["forget" if "forget" in step else "retain" for step in drawn]
        runs = [(side, len(list(group))) for side, group in itertools.groupby(sides)]
        last = [index for index, (side, _) in enumerate(runs) if side == anchor][-1]
        for index, (side, length) in enumerate(runs):
            expected = lengths[("forget", "retain").index(side)]
            assert length == expected or (index == last and length < expected)
        assert epoch or runs[0][0] == "forget"

    other = "retain" if anchor == "forget" else "forget"
    seen = [d for drawn in steps_by_epoch for step in drawn for d in step.get(other, ())]
    assert len(set(seen)) == len(seen), "a row came twice within one run through its stream"


@given(sizes, sizes, st.integers(1, 16))
def test_other_streams_run_without_replacement(anchor: int, other: int, size: int) -> None:
    made = steps(anchor, other, size)
    seen = [
        place
        for epoch in range(3)
        for s in range(len(made))
        for place in made.draw(epoch, s)["retain"]
    ]
    assert len(set(seen)) == len(seen), "a row came twice within one run through the stream"
    for cycle in range(seen[-1][1]):
        assert sorted(row for row, c in seen if c == cycle) == list(range(other))


@given(
    sizes,
    sizes,
    st.sampled_from([(8, 1), (4, 2), (2, 4), (1, 8)]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_dealing_changes_no_row(
    anchor: int, other: int, split: tuple[int, int], world: int, packed: bool
) -> None:
    made = steps(anchor, other, 8 * world, packed=packed)
    per_device, accumulation = split
    for step in range(len(made)):
        micro_batches = made.split_into_micro_batches(0, step, accumulation * world)
        assert all(len(hand) == 3 * per_device for hand in micro_batches)
        for hand in micro_batches:  # pairs stay together, in order
            pairs = [
                [(s.row, s.epoch, s.weight) for s in hand if s.stream == name]
                for name in ("forget", "alternate")
            ]
            assert pairs[0] == pairs[1]
        for stream, rows in made.draw(0, step).items():
            dealt = [
                (slot.row, slot.epoch)
                for hand in micro_batches
                for slot in hand
                if slot.stream == stream and slot.weight
            ]
            assert sorted(dealt) == sorted(rows)


def tokens(made: Steps, hand: list[Any]) -> int:
    return sum(
        len(made.streams[slot.stream].example(slot.row)["input_ids"])
        for slot in hand
        if slot.weight
    )


@given(sizes, sizes, st.sampled_from([2, 4, 8]), st.integers(1, 3))
def test_rows_of_near_lengths_come_together(
    anchor: int, other: int, num_micro_batches: int, a_hand: int
) -> None:
    """Of a stream that has no pairs no length stands between two of another hand, and padding is
    the least there is."""
    made = steps(anchor, other, num_micro_batches * a_hand)
    for step in range(len(made)):
        dealt = made.split_into_micro_batches(0, step, num_micro_batches)
        lengths = [
            [
                len(made.streams["retain"].example(s.row)["input_ids"])
                for s in hand
                if s.stream == "retain" and s.weight
            ]
            for hand in dealt
        ]
        flat = [length for hand in lengths for length in hand]
        assert (
            flat == sorted(flat, reverse=True)
            and max(map(len, lengths)) - min(map(len, lengths)) <= 1
        )
        for hand in dealt:
            shown = [
                len(made.streams[s.stream].example(s.row)["input_ids"])
                for s in hand
                if s.stream == "retain"
            ]
            real = [
                n
                for n, s in zip(shown, (s for s in hand if s.stream == "retain"), strict=True)
                if s.weight
            ]
            assert max(shown) == max(real, default=min(flat)), (
                "a row that fills up makes no batch wider"
            )


@given(st.integers(8, 40), st.sampled_from([2, 4]), st.integers(2, 6))
def test_packed_hands_have_about_as_many_tokens(
    anchor: int, num_micro_batches: int, a_hand: int
) -> None:
    made = steps(anchor, anchor, num_micro_batches * a_hand, packed=True)
    for step in range(anchor // (num_micro_batches * a_hand)):
        counts = [
            tokens(made, [s for s in hand if s.stream == "retain"])
            for hand in made.split_into_micro_batches(0, step, num_micro_batches)
        ]
        assert max(counts) - min(counts) <= 31, "no more than the longest row between any two"


@given(sizes, st.integers(1, 4), st.integers(1, 3))
def test_ranks_share_a_step_without_overlap(anchor: int, accumulation: int, world: int) -> None:
    made = steps(anchor, 5, 2 * accumulation * world)
    ranks = [list(MicroBatches(made, accumulation, rank, world)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(made) * accumulation}
    real = [
        slot.row
        for rank in ranks
        for batch in rank
        for slot in batch
        if slot.stream == "forget" and slot.weight
    ]
    assert sorted(real) == list(range(anchor))


@given(st.integers(0, 1000), st.integers(0, 5))
def test_the_order_is_a_function_of_seed_epoch_and_step(seed: int, epoch: int) -> None:
    assert steps(17, 9, 4, seed).draw(epoch, 2) == steps(17, 9, 4, seed).draw(epoch, 2)
