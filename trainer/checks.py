"""Requests that cannot be met by the images at hand, refused before any training, with what to change."""

from __future__ import annotations

import numpy as np

from core.data.dataset import Dataset
from core.data.specs import FINDINGS, JOINED, OPTIONS_AFTER, all_findings
from core.errors import BadRequest
from trainer.config import Settings
from trainer.imbalance import IMBALANCE


def check_batch(settings: Settings, labels: np.ndarray) -> None:
    """Raises BadRequest where a batch that was asked for holds more images than an epoch shows."""
    shown = len(labels) if labels.ndim == 2 else int(IMBALANCE[settings.imbalance].shown(labels).sum())
    if settings.batch_size > shown:
        raise BadRequest(
            f"--batch-size {settings.batch_size} is larger than the {shown} labelled images that an epoch shows. Lower "
            "it, or raise --size."
        )


def check_labels(labels: np.ndarray, dataset: Dataset) -> None:
    """Raises BadRequest where the subset says nothing of a class, or knows one side only of a finding."""
    if labels.ndim == 1:
        if missing := [name for c, name in enumerate(dataset.labels) if c not in labels]:
            raise BadRequest(
                f"The subset has no image of {', '.join(missing)}, because the training part has none. Add some, or "
                "leave the class out of the data set."
            )
        return
    known, lacking = [], []
    for name, column in zip(dataset.labels, labels.T, strict=True):
        if not (column > 0.5).any():
            lacking.append(f"{name} (no image shows it)")
        elif not (column <= 0.5).any():
            lacking.append(f"{name} (no image is known to be without it)")
        else:
            known.append(name)
    if lacking:
        raise BadRequest(f"The subset cannot teach {', '.join(lacking)}. Raise --size, or {_without(dataset, known)}.")


def _without(dataset: Dataset, findings: list[str]) -> str:
    """How to ask for some findings only."""
    if not findings or dataset.spec.path is not None:
        return "leave out what it cannot teach"
    base = all_findings(dataset.spec).name
    joined = "," if OPTIONS_AFTER in base else OPTIONS_AFTER
    return f"ask for the others: --dataset {base}{joined}{FINDINGS}={JOINED.join(findings)}"


def check_judgeable(dataset: Dataset) -> None:
    """Raises BadRequest where no finding of the test part has both positive and negative images."""
    labels = dataset.listing.labels[dataset.parts.test]
    if labels.ndim == 2 and not ((labels > 0.5).any(axis=0) & (labels <= 0.5).any(axis=0)).any():
        raise BadRequest(f"No finding of {dataset.spec.name} is both present and absent among its test images.")
