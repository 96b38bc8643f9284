"""Score a classifier or a regression on rows whose answers are known, by scikit-learn."""

import math
from statistics import mean, median
from typing import Any

from unteach.lazy import sklearn_metrics

THRESHOLDS = [round(0.1 * k, 1) for k in range(1, 10)]


def score_classification(
    labels: list[int], probabilities: list[list[float]], names: tuple[str, ...]
) -> dict[str, Any]:
    """Compute accuracy, macro-F1 over the classes that occur, precision and recall of each class,
    and three tables.

    A value that no row gives (the recall of a label that no row has, the precision of one that was
    never predicted) is left out.

    Args:
        labels: the class of each row.
        probabilities: of each class, by row.
        names: of the classes.

    Returns:
        The values by name, and the tables `classes`, a line for each class; `confusion`, of the
        rows of a label, how many were predicted as which; `thresholds`, a line for each threshold
        on a probability.
    """
    class_indices = range(len(names))
    predictions = [max(class_indices, key=row.__getitem__) for row in probabilities]
    classes = _score_classes(labels, predictions, names)
    results: dict[str, Any] = {
        "accuracy": float(sklearn_metrics.accuracy_score(labels, predictions)),
        "macro_f1": float(
            sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0)
        ),
    }
    for line in classes:
        for score in ("precision", "recall"):
            if line[score] is not None:
                results[f"{score}_{line['label']}"] = line[score]
    results["classes"] = classes
    results["confusion"] = _count_confusions(labels, predictions, names)
    if len(names) == 2:
        results["thresholds"] = _score_binary_thresholds(labels, probabilities)
    else:
        results["thresholds"] = _score_confidences(labels, predictions, probabilities)
    return results


def _score_classes(
    labels: list[int], predictions: list[int], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Score each class: a line with its label, precision, recall, F1 and number of rows."""
    columns = sklearn_metrics.precision_recall_fscore_support(
        labels, predictions, labels=list(range(len(names))), zero_division=math.nan
    )
    lines = []
    for name, *scores, num_rows in zip(names, *columns, strict=True):
        line: dict[str, Any] = {"label": name}
        for key, score in zip(("precision", "recall", "f1"), scores, strict=True):
            line[key] = None if math.isnan(score) else float(score)
        line["rows"] = int(num_rows)
        lines.append(line)
    return lines


def _count_confusions(
    labels: list[int], predictions: list[int], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Count the rows of each label by what was predicted: a line for each label."""
    matrix = sklearn_metrics.confusion_matrix(labels, predictions, labels=list(range(len(names))))
    lines = []
    for name, counts in zip(names, matrix, strict=True):
        line: dict[str, Any] = {"label": name}
        for predicted_name, count in zip(names, counts, strict=True):
            line[f"as {predicted_name}"] = int(count)
        lines.append(line)
    return lines


def _score_binary_thresholds(
    labels: list[int], probabilities: list[list[float]]
) -> list[dict[str, float]]:
    """Score thresholds on the probability of the second label, among them the mean and the median
    of the rows: a line for each."""
    second = [row[1] for row in probabilities]
    lines = []
    for threshold in sorted({*THRESHOLDS, mean(second), median(second)}):
        predictions = [int(probability >= threshold) for probability in second]
        lines.append(
            {
                "threshold": threshold,
                "accuracy": float(sklearn_metrics.accuracy_score(labels, predictions)),
                "macro_f1": float(
                    sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0)
                ),
                "precision": float(
                    sklearn_metrics.precision_score(labels, predictions, zero_division=0)
                ),
                "recall": float(sklearn_metrics.recall_score(labels, predictions, zero_division=0)),
            }
        )
    return lines


def _score_confidences(
    labels: list[int], predictions: list[int], probabilities: list[list[float]]
) -> list[dict[str, float]]:
    """Score thresholds on the probability of the predicted class: the share of rows that reach it,
    and how many of these are right; a line for each."""
    lines = []
    for threshold in THRESHOLDS:
        are_right = []
        for label, prediction, row in zip(labels, predictions, probabilities, strict=True):
            if max(row) >= threshold:
                are_right.append(label == prediction)
        if are_right:
            line = {
                "threshold": threshold,
                "kept": len(are_right) / len(predictions),
                "accuracy": sum(are_right) / len(are_right),
            }
            lines.append(line)
    return lines


def score_regression(targets: list[float], predictions: list[float]) -> dict[str, Any]:
    """Compute the mean absolute and mean squared error, and R^2 where there are two rows or
    more."""
    results = {
        "mae": float(sklearn_metrics.mean_absolute_error(targets, predictions)),
        "mse": float(sklearn_metrics.mean_squared_error(targets, predictions)),
    }
    if len(predictions) > 1:
        results["r2"] = float(sklearn_metrics.r2_score(targets, predictions))
    return results
