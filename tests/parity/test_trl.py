"""Each loss that teaches equals TRL's own on the very batch that TRL's trainer makes: the value,
and the gradient."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from unteach.testing import Examples, build_method, step_gradient
from unteach.training.step import setup_method

trl = pytest.importorskip("trl", reason="TRL is what these losses are compared with")

ROWS = [
    {
        "prompt": f"Question: who wrote book {i}?\n",
        "chosen": f"Anna wrote it{' in the north' * i}.",
        "rejected": f"{'Nobody knows, ' * (3 - i % 3)}or Bert.",
    }
    for i in range(4)
]


@pytest.fixture(scope="module")
def models(tiny_folder: Path) -> tuple[Any, Any, Any]:
    """(loaded policy, a reference that differs from it, the tokenizer)."""
    from unteach.config.schema import ModelConfig
    from unteach.models.loading import load

    config = ModelConfig({"pretrained_model_name_or_path": str(tiny_folder), "dtype": "float32"})
    policy, reference = load(config, training=True), load(config, training=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    reference.model.requires_grad_(False)
    return policy, reference.model, policy.tokenizer


def theirs(
    kind: str, models: Any, rows: list[dict[str, Any]], folder: Path, **settings: Any
) -> tuple[float, Any, Any]:
    """(loss, gradient, batch) of TRL's trainer of this kind, all rows in one batch."""
    import datasets
    from trl.experimental import cpo, orpo

    trainers = {"CPO": cpo.CPOTrainer, "ORPO": orpo.ORPOTrainer}
    configs = {"CPO": cpo.CPOConfig, "ORPO": orpo.ORPOConfig}
    trainer_class = trainers.get(kind) or getattr(trl, f"{kind}Trainer")
    config_class = configs.get(kind) or getattr(trl, f"{kind}Config")
    loaded, reference, tokenizer = models
    plain = type(reference)(reference.config)
    plain.load_state_dict(loaded.model.state_dict())
    frozen = type(reference)(reference.config)
    frozen.load_state_dict(reference.state_dict())
    compared = {"ref_model": frozen} if kind in ("DPO", "KTO") else {}
    args = config_class(
        output_dir=str(folder),
        per_device_train_batch_size=len(rows),
        bf16=False,
        use_cpu=True,
        report_to="none",
        gradient_checkpointing=False,
        max_length=256,
        **settings,
    )
    trainer = trainer_class(
        model=plain,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=copy.deepcopy(tokenizer),
        **compared,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss), torch.cat([p.grad.flatten() for p in trainer.model.parameters()]), batch


def ours(
    name: str, args: dict[str, Any], models: Any, rows: dict[str, Examples]
) -> tuple[float, Any]:
    loaded, reference, _ = models
    method = build_method(name, args)
    loaded.model.train()
    setup_method(loaded.model, method, seed=0, streams={})
    gradient, loss = step_gradient(loaded, method, rows, reference, num_micro_batches=1)
    return float(loss), gradient


def examples(ids: Any, mask: Any, labels: Any, **more: list[Any]) -> Examples:
    """Rows of a padded batch as examples; what is masked out is left out."""
    found = Examples()
    for i in range(len(ids)):
        real = mask[i].bool()
        row = {"input_ids": ids[i][real].tolist(), "labels": labels[i][real].tolist(), "index": i}
        found.append({**row, **{key: values[i] for key, values in more.items()}})
    return found


def within(ids: Any, completion: Any) -> Any:
    return ids.masked_fill(completion == 0, -100)


def side(rows: Examples, name: str) -> Examples:
    return Examples({name: row} for row in rows)


def same(mine: tuple[float, Any], loss: float, gradient: Any) -> None:
    assert mine[0] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert float((mine[1] - gradient).norm() / gradient.norm()) < 1e-5


@pytest.mark.parametrize("only", [True, False])
def test_sft(only: bool, models: Any, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
    loss, gradient, batch = theirs("SFT", models, rows, tmp_path, completion_only_loss=only)
    mine = examples(batch["input_ids"], batch["attention_mask"], batch["labels"])
    args = {"loss_on": "completion" if only else "all"}
    same(ours("SFT", args, models, {"train": mine}), loss, gradient)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_dpo(loss_type: str, models: Any, tmp_path: Path) -> None:
    loss, gradient, batch = theirs("DPO", models, ROWS, tmp_path, loss_type=[loss_type], beta=0.3)
    whole = examples(
        batch["input_ids"],
        batch["attention_mask"],
        within(batch["input_ids"], batch["completion_mask"]),
    )
    rows = {"chosen": side(whole[:4], "chosen"), "rejected": side(whole[4:], "rejected")}
    same(ours("PrefDPO", {"loss_type": loss_type, "beta": 0.3}, models, rows), loss, gradient)


def of_two(batch: Any) -> dict[str, Examples]:
    """The two sides of a batch of TRL's CPO and ORPO, whose labels begin with the prompt's
    place."""
    return {
        name: side(
            examples(
                batch[f"{name}_input_ids"], batch[f"{name}_attention_mask"], batch[f"{name}_labels"]
            ),
            name,
        )
        for name in ("chosen", "rejected")
    }


@pytest.mark.parametrize(
    ("name", "args", "settings"),
    [
        (
            "CPO",
            {"beta": 0.3, "alpha": 0.7, "label_smoothing": 0.1},
            {"beta": 0.3, "cpo_alpha": 0.7, "label_smoothing": 0.1, "loss_type": "sigmoid"},
        ),
        ("CPO", {"alpha": 0.0, "loss_type": "hinge"}, {"cpo_alpha": 0.0, "loss_type": "hinge"}),
        ("CPO", {"loss_type": "ipo"}, {"loss_type": "ipo"}),
        (
            "SimPO",
            {"beta": 2.5, "gamma": 0.8},
            {"beta": 2.5, "simpo_gamma": 0.8, "loss_type": "simpo", "cpo_alpha": 0.0},
        ),
        ("ORPO", {"beta": 0.4}, {"beta": 0.4}),
    ],
    ids=["CPO", "CPO-hinge", "CPO-ipo", "SimPO", "ORPO"],
)
def test_without_a_reference(
    name: str, args: dict[str, Any], settings: dict[str, Any], models: Any, tmp_path: Path
) -> None:
    kind = "ORPO" if name == "ORPO" else "CPO"
    loss, gradient, batch = theirs(
        kind, models, ROWS, tmp_path, max_completion_length=None, **settings
    )
    same(ours(name, args, models, of_two(batch)), loss, gradient)


def test_kto(models: Any, tmp_path: Path) -> None:
    labels = [True, False, True, True]
    rows = [
        {"prompt": r["prompt"], "completion": r["chosen"], "label": lb}
        for r, lb in zip(ROWS, labels, strict=True)
    ]
    settings = {"beta": 0.4, "desirable_weight": 1.3, "undesirable_weight": 0.6}
    loss, gradient, batch = theirs("KTO", models, rows, tmp_path, **settings)
    weights = [1.0 if liked else -1.0 for liked in batch["label"]]
    own, other = (
        (
            batch[f"{k}input_ids"],
            batch[f"{k}attention_mask"],
            within(batch[f"{k}input_ids"], batch[f"{k}completion_mask"]),
        )
        for k in ("", "KL_")
    )
    rows_of = {
        "train": examples(*own, weight=weights),
        "mismatched": side(examples(*other), "mismatched"),
    }
    same(ours("KTO", settings, models, rows_of), loss, gradient)
