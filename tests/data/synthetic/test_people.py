"""The people world keeps its promises: the same everywhere, whole people in each split, forms that
are held out, and a retrain that never read of the people to forget."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doors import train
from unteach.cli import main
from unteach.data.io import sources
from unteach.data.rows import Row
from unteach.data.synthetic import people
from unteach.data.synthetic.people import PeopleWorld
from unteach.data.synthetic.people_facts import CAPITAL, FACT_KINDS
from unteach.data.synthetic.word_banks import COUNTRIES, FIRST_NAMES, LAST_NAMES
from unteach.errors import UserError

PERTURBED = [name for name in people.NAMES if name.endswith("_perturbed")]
HELD_OUT = {
    "paraphrased_question",
    "paraphrased_answer",
    "statement",
    "perturbed_answer",
    "wrong_answer",
}
ALL_KINDS = (*FACT_KINDS, CAPITAL)
VALUES = {kind.name: kind.values for kind in ALL_KINDS}
SEEDS = st.integers(min_value=0, max_value=2**31)
few = settings(max_examples=8, deadline=None)
DIGEST = (
    "import hashlib, json; from unteach.data.synthetic import people; "
    "assert 'torch' not in sys.modules; world = people.PeopleWorld(3); "
    "print(hashlib.sha256(json.dumps([people.build_world_rows(world, name) for name in "
    "people.NAMES]).encode()).hexdigest())"
)


def build(name: str, seed: int = 0) -> list[Row]:
    return people.build_world_rows(PeopleWorld(seed), name)


def digest(seed: int) -> str:
    rows = [build(name, seed) for name in people.NAMES]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def plain(rows: list[Row]) -> list[Row]:
    return [{key: row[key] for key in people.PLAIN} for row in rows]


def read(*names: str, seed: int = 0) -> str:
    """All that the rows of these configs say."""
    rows = [row for name in names for row in build(name, seed)]
    return "\n".join(f"{row['question']}\n{row['answer']}" for row in rows)


def test_the_same_seed_gives_the_same_rows_in_another_process() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; {DIGEST}"
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == digest(3)


def test_different_seeds_give_different_worlds() -> None:
    assert len({digest(seed) for seed in range(3)}) == 3


def test_whoever_changes_rows_changes_no_others() -> None:
    build("forget10_perturbed")[0]["perturbed_answer"].clear()
    build("full")[0]["keys"].clear()
    assert build("forget10_perturbed")[0]["perturbed_answer"] and build("full")[0]["keys"]


def test_as_many_rows_as_the_settings_say() -> None:
    sizes = {name: len(build(name)) for name in people.NAMES}
    assert sizes["full"] == (180 + 20) * 5 * 3
    assert sizes["retain90"] == 180 * 5 * 3
    for group in ("forget", "holdout"):
        assert sizes[f"{group}10"] == 20 * 5
        assert sizes[f"{group}05"] == 10 * 5
        assert sizes[f"{group}01"] == 2 * 5
    world = PeopleWorld(n_base=9, n_retain=7, n_forget=3, n_holdout=2)
    assert len({row["entity"] for row in people.build_world_rows(world, "full")}) == 10
    assert len(people.build_world_rows(world, "forget05")) == 2 * 5
    assert len({row["entity"] for row in people.build_world_rows(world, "pretrain")}) == 9 + 30


@pytest.mark.parametrize("name", people.NAMES)
def test_a_row_says_whose_fact_it_is_and_ends_with_its_value(name: str) -> None:
    for row in build(name):
        assert set(row) == {*people.PLAIN, *(HELD_OUT if name in PERTURBED else ())}
        assert row["value"] in VALUES[row["kind"]]
        assert row["entity"] in row["question"]
        assert row["answer"].endswith(f" {row['value']}.")
        assert row["keys"] == [row["entity"], row["value"]]
        assert row["kinds"] in (["person", row["kind"]], ["country", "capital"])


@pytest.mark.parametrize("name", PERTURBED)
@given(seed=SEEDS)
@few
def test_wrong_answers_are_other_values_of_the_same_kind(name: str, seed: int) -> None:
    for row in build(name, seed):
        right = row["paraphrased_answer"]
        opening = right.removesuffix(f"{row['value']}.")
        wrong = [
            answer.removeprefix(opening).removesuffix(".") for answer in row["perturbed_answer"]
        ]
        assert len(set(wrong)) == people.NUM_WRONG
        assert set(wrong) <= set(VALUES[row["kind"]]) - {row["value"]}
        assert row["wrong_answer"] == row["answer"].replace(row["value"], wrong[0])
        assert row["statement"].endswith(f" {row['value']}.") and row["entity"] in row["statement"]


def test_every_kind_has_32_values_and_none_is_part_of_what_is_not_it() -> None:
    values = [value for kind in FACT_KINDS for value in kind.values]
    assert all(len(set(kind.values)) == 32 for kind in FACT_KINDS)
    forms = [form for kind in ALL_KINDS for form in (*kind.taught_forms, *kind.held_out_forms)]
    others = [
        *FIRST_NAMES,
        *LAST_NAMES,
        *(name for country in COUNTRIES for name in country[:2]),
        *(form.question + form.answer for form in forms),
    ]
    for value in values:
        around = [other for other in (*values, *others) if other != value]
        assert not [other for other in around if value.lower() in other.lower()]
    assert len(set(values)) == len(values)


@given(SEEDS)
@few
def test_no_name_is_given_twice(seed: int) -> None:
    world = PeopleWorld(seed)
    everyone = (*world.forget, *world.holdout, *world.retain, *world.base)
    assert len({person.name for person in everyone}) == 300 + 180 + 20 + 20


@given(SEEDS, st.integers(2, 60), st.integers(8, 60))
@few
def test_the_people_to_forget_do_not_depend_on_the_others(
    seed: int, n_retain: int, n_base: int
) -> None:
    world = PeopleWorld(seed, n_retain=n_retain, n_base=n_base)
    rows = people.build_world_rows(world, "forget10_perturbed")
    assert rows == build("forget10_perturbed", seed)
    assert people.build_world_rows(world, "holdout10") == build("holdout10", seed)


@given(SEEDS, st.integers(2, 30))
@few
def test_retain_and_forget_share_the_taught_people_among_them(seed: int, n_forget: int) -> None:
    world = PeopleWorld(seed, n_retain=12, n_forget=n_forget)
    full = people.build_world_rows(world, "full")
    for percent in people.SHARES:
        forget = people.build_world_rows(world, f"forget{percent:02}")
        retain = people.build_world_rows(world, f"retain{100 - percent}")
        # The first of the three forms alone is unlearned.
        assert retain + full[len(retain) :] == full
        assert forget == full[len(retain) :: 3]
        assert not {row["entity"] for row in forget} & {row["entity"] for row in retain}
        assert plain(people.build_world_rows(world, f"forget{percent:02}_perturbed")) == forget
        measured = plain(people.build_world_rows(world, "retain_perturbed"))
        assert all(row in retain for row in measured)


@given(SEEDS)
@few
def test_no_retrain_reads_of_the_people_to_forget_and_no_model_of_the_holdout(seed: int) -> None:
    world = PeopleWorld(seed)
    gold = read("pretrain", "retain90", "general", seed=seed)
    assert not [person.name for person in world.forget if person.name in gold]
    taught = gold + read("full", seed=seed)
    assert not [person.name for person in world.holdout if person.name in taught]


@given(SEEDS)
@few
def test_held_out_forms_are_told_of_base_people_alone(seed: int) -> None:
    world = PeopleWorld(seed)
    taught = read("full", "retain90", "forget10", seed=seed)
    base = read("pretrain", "general", seed=seed)
    for row in build("full_perturbed", seed):
        assert row["paraphrased_question"] not in taught
        assert row["paraphrased_answer"] not in taught
        assert row["statement"] not in taught
    for person in (*world.retain, *world.forget, *world.holdout):
        assert person.name not in base
    for fact in world.base[0].facts:
        for form in (*fact.kind.taught_forms, *fact.kind.held_out_forms):
            assert form.write_question(fact.entity) in base


def test_values_are_drawn_alike_for_every_group() -> None:
    """So that who never read of a person has no better guess than chance."""
    world = PeopleWorld(n_base=2000)
    for kind_index, kind in enumerate(FACT_KINDS):
        counts = dict.fromkeys(kind.values, 0)
        for person in world.base:
            counts[person.facts[kind_index].value] += 1
        # 62.5 are expected, 7.8 the deviation.
        assert min(counts.values()) > 30 and max(counts.values()) < 95


def test_the_built_in_world_is_a_path() -> None:
    assert sources.load_rows({"path": "people:4", "name": "full"}) == build("full", 4)
    assert sources.load_rows({"path": "people", "name": "general"}) == build("general")
    forget_set = {"by": "person", "count": 2}
    whole = {"path": "people", "name": "full", "forget_set": forget_set}
    assert len(sources.load_rows({**whole, "part": "forget"})) == 2 * 5 * 3
    with pytest.raises(UserError, match="the people world has no 'forget11'; it has full"):
        sources.load_rows({"path": "people", "name": "forget11"})


def test_the_written_folder_is_the_world(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "world"
    words = ["world", "kind=people", "n_base=12", "n_retain=9", "n_forget=4", "seed=5"]
    main([*words, f"to={folder}"])
    world = PeopleWorld(seed=5, n_base=12, n_retain=9, n_forget=4)
    for name in people.NAMES:
        written = sources.load_rows({"path": str(folder), "name": name})
        assert written == people.build_world_rows(world, name)
    main([*words, f"to={folder}"])
    assert "written before" in capsys.readouterr().out
    # Its settings are a file that `config=` takes.
    again = tmp_path / "again"
    main(["world", f"config={folder / 'world.yaml'}", f"to={again}"])
    assert (again / "full.jsonl").read_bytes() == (folder / "full.jsonl").read_bytes()
    # The same settings of the other kind are another world.
    with pytest.raises(SystemExit):
        main(["world", f"to={folder}", "seed=5"])
    assert "something else is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kind=peopel"], "did you mean people?"),
        (["kind=people", "n_authors=12"], "n_authors"),
        (["kind=people", "n_forget=1"], "n_forget must be 2 or more, got 1"),
        (["kind=people", "n_base=7"], "n_base must be 8 or more, got 7"),
        (["kind=people", "n_base=5000"], "5220 people together, and there are 4800 names"),
        (["kind=people", "n_forget=many"], "n_forget"),
    ],
)
def test_wrong_settings_are_said_and_nothing_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["world", f"to={tmp_path / 'world'}", *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def rank_first(folder: Path, rows: list[Row], question: str = "question") -> float:
    """In what share of the rows the true value is the likeliest of its kind, after the question
    and the answer up to its value."""
    import torch
    import transformers

    path = folder / "final_checkpoint"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    num_first = 0
    for row in rows:
        stem = row["answer"].removesuffix(f"{row['value']}.")
        prompt = tokenizer(f"<s>{row[question]}\n", add_special_tokens=False)["input_ids"]
        texts = [f"{stem}{value}." for value in VALUES[row["kind"]]]
        answers = tokenizer(texts, add_special_tokens=False)["input_ids"]
        length = max(map(len, answers))
        ids = torch.zeros(len(answers), len(prompt) + length, dtype=torch.long)
        counted = torch.zeros(len(answers), length)
        for i, answer in enumerate(answers):
            ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            counted[i, : len(answer)] = 1
        with torch.no_grad():
            log_probs = (
                model(ids).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
            )  # [V, T, vocabulary]
        of_tokens = log_probs.gather(-1, ids[:, len(prompt) :, None])[..., 0]
        best = int((of_tokens * counted).sum(-1).argmax())
        num_first += VALUES[row["kind"]][best] == row["value"]
    return num_first / len(rows)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_what_is_taught_is_known_and_the_retrain_is_at_chance(tmp_path: Path) -> None:
    def teach(experiment: str, name: str, *words: str) -> Path:
        folder = tmp_path / name
        place = (f"task_name={name}", f"paths.output_dir={folder}")
        return train(f"experiment={experiment}", *place, *words)

    base = teach("pretrain/people/base", "base")
    full = teach("finetune/people/default", "full", f"model={base}")
    retain = teach("finetune/people/retain", "retain", f"model={base}")

    forget = build("forget10_perturbed")
    kept = build("retain_perturbed")
    assert rank_first(full, forget) >= 0.95 and rank_first(full, kept) >= 0.95
    # What was taught in other forms answers a question that it was never taught.
    assert rank_first(full, forget, "paraphrased_question") >= 0.9
    # Chance is 1 in 32: more than 10 of 100 have a probability of .0003.
    assert rank_first(retain, forget) <= 0.1 and rank_first(full, build("holdout10")) <= 0.1
    assert rank_first(retain, kept) >= 0.95
