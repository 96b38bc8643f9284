"""modality=vlm on a small LLaVA: what it sees changes what it says, and an image that is no image
fails its row alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import read_rows
from tests.doors import infer
from tests.inference.backends.conftest import Fake
from tests.inference.backends.small import seeing_model
from unteach.errors import RowsFailed, UserError


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_model(tmp_path_factory.mktemp("seeing"))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Names of three images beside the table."""
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (40, 50 + i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    return [f"{i}.png" for i in range(3)]


def ask(model: Path, folder: Path, rows: list[dict[str, Any]], *more: str) -> list[dict[str, Any]]:
    path = folder / "seen.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = (
        ("max_new_tokens=8", "resume=never")
        if not any("max_new" in word for word in more)
        else ("resume=never",)
    )
    infer(f"model={model}", f"input_file={path}", "modality=vlm", *given, *more)
    return read_rows(folder / "seen_output.jsonl")


def rows_of(pictures: list[str]) -> list[dict[str, Any]]:
    asked = [
        "What is it?",
        "Who was born in a small town, and when was it that she wrote?",
        "Why?",
        "What is it?",
    ]
    images: list[Any] = [pictures[0], pictures[1], [pictures[1], pictures[2]], pictures[2]]
    return [{"input": words, "image": image} for words, image in zip(asked, images, strict=True)]


def greedy(model: Path, question: str, files: list[Path]) -> str:
    """transformers alone, one row."""
    import torch
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(model)
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(
        model, dtype=torch.float32
    ).eval()
    text = f"Q: {'<image>' * len(files)}{question}\nA:"
    given = processor(
        text=[text], images=[[Image.open(file) for file in files]], return_tensors="pt"
    )
    made = loaded.generate(**given, do_sample=False, max_new_tokens=8)[
        0, given["input_ids"].shape[1] :
    ]
    return processor.tokenizer.decode(made, skip_special_tokens=True)


def test_rows_with_images_say_what_the_library_says(
    seeing: Path, tmp_path: Path, pictures: list[str]
) -> None:
    rows = rows_of(pictures)
    answers = ask(seeing, tmp_path, rows, "perplexity=true")
    for row, answer in zip(rows, answers, strict=True):
        images = row["image"] if isinstance(row["image"], list) else [row["image"]]
        assert answer["output"] == greedy(
            seeing, row["input"], [tmp_path / image for image in images]
        )
    assert answers[0]["output"] != answers[3]["output"]  # one question about two images
    assert [answer["prompt_tokens"] for answer in answers][:1] == [answers[3]["prompt_tokens"]]
    assert all(1 < answer["perplexity"] < 400 for answer in answers)
    alone = ask(seeing, tmp_path, rows, "perplexity=true", "backend_args.batch_size=1")
    assert [row["output"] for row in alone] == [row["output"] for row in answers]
    assert [row["perplexity"] for row in alone] == pytest.approx(
        [row["perplexity"] for row in answers], rel=1e-4
    )


def test_what_is_drawn_depends_on_the_row_alone(
    seeing: Path, tmp_path: Path, pictures: list[str]
) -> None:
    more = (
        "temperature=1.0",
        "num_return_sequences=2",
        "repetition_penalty=1.1",
        "stop_strings=[e]",
    )
    together = ask(seeing, tmp_path, rows_of(pictures), *more)
    alone = ask(seeing, tmp_path, rows_of(pictures), *more, "backend_args.batch_size=1")
    assert together == alone
    assert len({row["output"][turn] for row in together for turn in range(2)}) > 4
    assert all("e" not in text for row in together for text in row["output"])


def test_images_that_cannot_be_read_fail_their_rows_which_are_asked_again(
    seeing: Path,
    tmp_path: Path,
    pictures: list[str],
    fake: Fake,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.png").write_text("no image")
    fake.files["/there.png"] = (tmp_path / pictures[0]).read_bytes()
    images = [
        pictures[0],
        "text.png",
        "absent.png",
        f"{fake.url}/there.png",
        f"{fake.url}/later.png",
        None,
        pictures[2],
    ]
    rows = [{"input": "What is it?", "image": image} for image in images]
    with pytest.raises(RowsFailed, match="4 of 7 rows"):
        ask(seeing, tmp_path, rows)
    told = read_rows(tmp_path / "seen_output.jsonl")
    errors = [
        "",
        "is not an image",
        "there is no such file",
        "",
        "HTTP 404",
        "there is no image",
        "",
    ]
    for row, why in zip(told, errors, strict=True):
        assert why in row["error"] if why else row["error"] is None and row["output"]
    assert told[0]["output"] == told[3]["output"]
    (tmp_path / "text.png").write_bytes((tmp_path / pictures[1]).read_bytes())
    fake.files["/later.png"] = fake.files["/there.png"]
    given = (
        f"model={seeing}",
        f"input_file={tmp_path / 'seen.jsonl'}",
        "modality=vlm",
        "max_new_tokens=8",
    )
    with pytest.raises(RowsFailed, match="2 of 7 rows"):
        infer(*given)
    again = read_rows(tmp_path / "seen_output.jsonl")
    assert [row["error"] is None for row in again] == [True, True, False, True, True, False, True]
    assert again[4]["output"] == told[0]["output"] and again[6] == told[6]


def test_a_prompt_that_is_too_long_with_its_images_fails_alone(
    seeing: Path, tmp_path: Path, pictures: list[str]
) -> None:
    rows = [
        {"input": "What? " * 120, "image": pictures[0]},
        {"input": "What is it?", "image": pictures[0]},
    ]
    with pytest.raises(RowsFailed, match="1 of 2"):
        ask(seeing, tmp_path, rows)
    told = read_rows(tmp_path / "seen_output.jsonl")
    assert "more than the 256 that the model reads" in told[0]["error"] and told[1]["output"]


def test_conversations_with_images_in_their_places(
    seeing: Path, tmp_path: Path, pictures: list[str]
) -> None:
    parts = [
        {"type": "text", "text": "Before "},
        {"type": "image"},
        {"type": "text", "text": " and after"},
    ]
    turns = [{"role": "user", "content": parts}]
    rows = [
        {"messages": turns, "image": pictures[0]},
        {"messages": turns, "image": pictures[:2]},  # one place for two images
    ]
    with pytest.raises(RowsFailed, match="1 of 2"):
        ask(seeing, tmp_path, rows)
    told = read_rows(tmp_path / "seen_output.jsonl")
    assert told[0]["output"] and "does not take this row" in told[1]["error"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("too_long=skip",), "too_long=skip: with modality=vlm"),
        (("kind=classify",), "modality=vlm only continues"),
        (("template=qa",), "chat template of the model's processor"),
        (("image_column=picture",), "picture"),
    ],
)
def test_mistakes(
    seeing: Path, tmp_path: Path, pictures: list[str], more: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        ask(seeing, tmp_path, rows_of(pictures), *more)


def test_a_model_that_reads_no_images(
    tiny_folder: Path, tmp_path: Path, pictures: list[str]
) -> None:
    with pytest.raises(UserError, match="a llama model reads no images"):
        ask(tiny_folder, tmp_path, rows_of(pictures))


def test_a_special_token_in_a_rows_text_fails_that_row_alone(
    seeing: Path, tmp_path: Path, pictures: list[str]
) -> None:
    rows = rows_of(pictures)[:2]
    rows[0]["input"] = "What is <image>?"
    with pytest.raises(RowsFailed):
        ask(seeing, tmp_path, rows)
    failed, answered = read_rows(tmp_path / "seen_output.jsonl")
    assert (
        "the text holds the special token <image>" in failed["error"] and failed["output"] is None
    )
    assert answered["error"] is None and isinstance(answered["output"], str)
