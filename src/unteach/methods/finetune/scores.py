"""What a classifier or a regression is worth on rows whose answer is known. By scikit-learn."""

import math
from statistics import mean, median
from typing import Any

STEPS = [round(0.1 * k, 1) for k in range(1, 10)]


def classification(
    labels: list[int], probabilities: list[list[float]], names: tuple[str, ...]
) -> dict[str, Any]:
    """Accuracy, macro-F1 over the classes that occur, precision and recall of each class, and three
    tables.

    What no row tells (the recall of a label that no row has, the precision of one that was never
    said) is left out.
    classes: a line a class. confusion: of the rows of a label, how many were taken for which.
    thresholds: see below.
    """
    from sklearn.metrics import (
        accuracy_score,
        confusion_matrix,
        f1_score,
        precision_recall_fscore_support,
    )

    said = [max(range(len(names)), key=row.__getitem__) for row in probabilities]
    numbers = list(range(len(names)))
    columns = precision_recall_fscore_support(labels, said, labels=numbers, zero_division=math.nan)
    of_each = [
        dict(zip(("precision", "recall", "f1", "rows"), map(float, row), strict=True))
        for row in zip(*columns, strict=True)
    ]
    found: dict[str, Any] = {
        "accuracy": float(accuracy_score(labels, said)),
        "macro_f1": float(f1_score(labels, said, average="macro", zero_division=0)),
    }
    for name, row in zip(names, of_each, strict=True):
        told = {f"precision_{name}": row["precision"], f"recall_{name}": row["recall"]}
        found |= {key: value for key, value in told.items() if not math.isnan(value)}
    taken = confusion_matrix(labels, said, labels=numbers)
    return found | {
        "classes": [
            {
                "label": name,
                **{k: None if math.isnan(value) else value for k, value in row.items()},
                "rows": int(row["rows"]),
            }
            for name, row in zip(names, of_each, strict=True)
        ],
        "confusion": [
            {"label": name, **{f"as {other}": int(n) for other, n in zip(names, row, strict=True)}}
            for name, row in zip(names, taken, strict=True)
        ],
        "thresholds": two_classes(labels, probabilities)
        if len(names) == 2
        else kept(labels, said, probabilities),
    }


def two_classes(labels: list[int], probabilities: list[list[float]]) -> list[dict[str, float]]:
    """A line a threshold on the probability of the second label, among them the mean and the median
    of the rows."""

    from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

    scores = [row[1] for row in probabilities]
    table = []
    for threshold in sorted({*STEPS, mean(scores), median(scores)}):
        said = [int(score >= threshold) for score in scores]
        table.append(
            {
                "threshold": threshold,
                "accuracy": float(accuracy_score(labels, said)),
                "macro_f1": float(f1_score(labels, said, average="macro", zero_division=0)),
                "precision": float(precision_score(labels, said, zero_division=0)),
                "recall": float(recall_score(labels, said, zero_division=0)),
            }
        )
    return table


def kept(
    labels: list[int], said: list[int], probabilities: list[list[float]]
) -> list[dict[str, float]]:
    """A line a threshold on the probability of the class that is said: the share of rows that reach
    it, and how many of these are right."""
    table = []
    for threshold in STEPS:
        right = [
            a == b
            for a, b, row in zip(labels, said, probabilities, strict=True)
            if max(row) >= threshold
        ]
        if right:
            table.append(
                {
                    "threshold": threshold,
                    "kept": len(right) / len(said),
                    "accuracy": sum(right) / len(right),
                }
            )
    return table


def regression(targets: list[float], said: list[float]) -> dict[str, Any]:
    """Mean absolute and mean squared error, and R^2 where there are two rows or more."""
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    found = {
        "mae": float(mean_absolute_error(targets, said)),
        "mse": float(mean_squared_error(targets, said)),
    }
    return found | ({"r2": float(r2_score(targets, said))} if len(said) > 1 else {})
