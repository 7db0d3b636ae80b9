"""Predictions with their labels and operating point, for one part of a data set.

Metrics are in `measures`; reading from files is in `core.runs.scores`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from core.errors import BadRequest
from core.types import EvaluatedPart


@dataclass(frozen=True)
class Scores:
    """Predictions of a run for the images of one part.

    Attributes:
        probabilities: (N, C), rows sum to 1; for findings the columns are independent.
        labels: (N,), class indices; or (N, C) of 0, 1 and NaN (unknown) for findings.
        positive: the positive class of a binary task; None for more classes.
        threshold: probability of the positive class from which the decision is positive; binary tasks only.
        thresholds: (C,), the same for each finding.
        part: origin of the images. Functions that fit refuse test images: see `refuse_test`.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    positive: int | None = None
    threshold: float = 0.5
    thresholds: tuple[float, ...] = ()
    part: EvaluatedPart = "test"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several findings."""
        return self.labels.ndim == 2

    def known(self, finding: int) -> np.ndarray:
        """Return (N,) bool, the images whose label is known for a finding."""
        return ~np.isnan(self.labels[:, finding])

    @cached_property
    def evaluable(self) -> list[int]:
        """Indices of the findings that have both positive and negative images."""
        truth = np.rint(self.labels)
        return np.flatnonzero((truth == 0).any(axis=0) & (truth == 1).any(axis=0)).tolist()

    def finding(self, finding: int) -> Scores:
        """Return the binary task of one finding on all images; give those with unknown label no weight."""
        p = self.probabilities[:, finding]
        truth = (np.nan_to_num(self.labels[:, finding]) > 0.5).astype(int)
        return Scores(np.stack([1 - p, p], axis=1), truth, 1, self.thresholds[finding], part=self.part)

    def known_finding(self, finding: int) -> Scores:
        """Return the binary task of one finding on the images with known label."""
        return self.finding(finding).of(self.known(finding))

    def of(self, which: np.ndarray) -> Scores:
        """Return the scores at some positions: (n,) indices or (N,) bool."""
        return replace(self, probabilities=self.probabilities[which], labels=self.labels[which])

    def merged(self, classes: tuple[int, ...]) -> Scores:
        """Return the binary task "one of these classes or another", with summed probabilities.

        Args:
            classes: the classes that count as positive.
        Raises:
            BadRequest: if the task has findings, or `classes` are none or all of its classes.
        """
        count = self.probabilities.shape[1]
        if self.multilabel or not 0 < len(set(classes)) < count or not set(classes) <= set(range(count)):
            raise BadRequest(f"Expected some, not all, of the classes 0 to {count - 1}, but got {classes}.")
        others = [c for c in range(count) if c not in classes]
        sums = [self.probabilities[:, columns].sum(axis=1) for columns in (others, list(classes))]
        truth = np.isin(self.labels, classes).astype(int)
        return Scores(np.clip(np.stack(sums, axis=1), 0, 1), truth, 1, part=self.part)

    @property
    def decisions(self) -> np.ndarray:
        """(N,), the predicted class indices."""
        if self.positive is None:
            return self.probabilities.argmax(axis=1)
        called = self.probabilities[:, self.positive] >= self.threshold
        return np.where(called, self.positive, 1 - self.positive)

    def odds(self, c: int) -> np.ndarray:
        """Return the (N,) odds of a class against the rest, by which images are ranked.

        The odds order images as the probabilities do, and still separate them where a probability rounds to 1. No
        temperature therefore changes the ranking of a binary task.
        """
        p, others = self.probabilities[:, c], np.delete(self.probabilities, c, axis=1).sum(axis=1)
        return np.divide(p, others, out=np.full(len(p), np.inf), where=others > 0)

    def classes(self) -> list[int]:
        """Return the classes whose one-vs-rest metrics are averaged."""
        return list(range(self.probabilities.shape[1])) if self.positive is None else [self.positive]

    def at(self, threshold: float) -> Scores:
        """Return the same scores at another threshold, applied to every finding if there are several."""
        return replace(self, threshold=threshold, thresholds=(threshold,) * len(self.thresholds))

    def positives(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (N,) probability of the positive class and (N,) bool, whether the image is positive.

        Raises:
            BadRequest: if the task is not binary.
        """
        if self.positive is None:
            raise BadRequest("Expected a binary task. Choose one finding or class first.")
        return self.probabilities[:, self.positive], self.labels == self.positive


def refuse_test(scores: Scores, what: str) -> None:
    """Raise if a fit would use test images.

    Args:
        scores: the images to fit on.
        what: what is being fitted, for the message.
    Raises:
        BadRequest: if these are test images.
    """
    if scores.part in ("test", "external"):
        raise BadRequest(
            f"{what} must be fitted on held-out images of the training subset or on calibration images, but these are "
            "test images. Use the part 'validation' or 'calibration' of the run."
        )
