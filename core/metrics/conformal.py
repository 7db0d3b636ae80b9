"""Class-conditional conformal prediction: sets of classes that contain the true class with a target frequency.

A class is in the set of an image if its probability is not among the lowest that images of this class receive. What can
be guaranteed depends on the calibration images:

- `split`: calibration images whose patients are used for nothing else, neither training nor a threshold nor a
  temperature. The set then contains the true class at least as often as the target, for every class and any number of
  images, if new patients come from the same population as the calibration patients. This costs labels beyond those of
  the training subset.
- `cross`: the out-of-fold predictions inside the training subset. This costs no label, but every image was also trained
  on, and the final model is not one of the models that were calibrated. Theory guarantees less (1 - 2 x error for sets
  made from all folds' models) and nothing for one refitted model; the coverage measured on the test set is what counts.

On external patients coverage is measured and shown, never guaranteed. One image per patient calibrates, because
patients, not images, are exchangeable. Too few patients raise an error that names the number needed.

References:
    Vovk 2012, class-conditional validity, arXiv:1209.2673. Vovk 2015, cross-conformal, arXiv:1208.0806.
    Romano, Sesia and Candès 2020, CV+ for classes, arXiv:2006.02544.
    Angelopoulos and Bates 2021, an introduction, arXiv:2107.07511.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.errors import BadRequest, LeakFound
from core.metrics.bootstrap import Estimate, interval, wilson
from core.metrics.scores import Scores, refuse_test

Kind = Literal["split", "cross"]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Conformal:
    """Fitted conformal sets.

    Attributes:
        level: target coverage of each class.
        kind: source of the calibration images.
        least: (C,) probability from which a class is in the set.
        patients: (C,) number of calibration patients of each class.
    """

    level: float
    kind: Kind
    least: tuple[float, ...]
    patients: tuple[int, ...]

    @property
    def guarantee(self) -> str:
        """What the sets guarantee for new patients, in words."""
        if self.kind == "split":
            return (
                f"For every class at least {self.level:.0%} of sets contain the true class, if new patients resemble "
                f"the {sum(self.patients)} calibration patients, who were used for nothing else."
            )
        return (
            f"Target coverage {self.level:.0%}, calibrated on out-of-fold predictions inside the training subset: no "
            "guarantee. Rely on the coverage measured on the test set."
        )


@dataclass(frozen=True)
class Coverage:
    """Performance of conformal sets on test images.

    Attributes:
        by_class: (C,) share of the images of each class whose set contains it.
        size: mean number of classes in a set.
        single, empty: share of sets with one class, and with none.
    """

    by_class: tuple[Estimate, ...]
    size: float
    single: float
    empty: float


def required_patients(level: float) -> int:
    """Return the calibration patients per class that a coverage level requires: 9 for 90%, 19 for 95%.

    Raises:
        BadRequest: if the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise BadRequest(f"Expected a level between 0 and 1, but got {level}.")
    return int(np.ceil(1 / (1 - level) - 1 - _ROUNDING))


def calibrate(scores: Scores, groups: np.ndarray, level: float, labels: Sequence[str] = ()) -> Conformal:
    """Fit conformal sets.

    Args:
        scores: predictions on the part `calibration`, or on `validation` for `cross`; for a multilabel task, of one
            finding.
        groups: (N,), patients or lesions; one image of each is used per class.
        level: target coverage.
        labels: names of the classes, for the error message.
    Raises:
        BadRequest: if these are test images, there are several findings, or a class has too few patients.
    """
    refuse_test(scores, "A conformal set")
    if scores.multilabel:
        raise BadRequest("Conformal sets need one class per image; choose one of the findings first.")
    enough, least, patients = required_patients(level), [], []
    for c in range(scores.probabilities.shape[1]):
        shuffled = np.random.default_rng(0).permutation(np.flatnonzero(scores.labels == c))
        chosen = np.sort(shuffled[np.unique(groups[shuffled], return_index=True)[1]])  # one random image per patient
        if len(chosen) < enough:
            name = labels[c] if labels else f"class number {c}"
            most = 100 * len(chosen) // (len(chosen) + 1)
            raise BadRequest(
                f"Sets at {level:.0%} need at least {enough} calibration patients of every class, but {name} has "
                f"{len(chosen)}. Label more{f', or choose a level of at most {most}%' if most else ''}."
            )
        rank = int(np.floor((1 - level) * (len(chosen) + 1) + _ROUNDING))
        least.append(float(np.sort(scores.probabilities[chosen, c])[rank - 1]))
        patients.append(len(chosen))
    return Conformal(level, "split" if scores.part == "calibration" else "cross", tuple(least), tuple(patients))


def sets_of(fitted: Conformal, probabilities: np.ndarray) -> np.ndarray:
    """Return (N, C) bool, the classes in each image's set, from (N, C) probabilities."""
    return np.asarray(probabilities) >= np.array(fitted.least)


def coverage(fitted: Conformal, scores: Scores, groups: np.ndarray, weights: np.ndarray) -> Coverage:
    """Measure the coverage on test images with 95% intervals.

    Intervals are Wilson's, or bootstrap intervals if patients have several images.

    Args:
        fitted: result of `calibrate`.
        scores: predictions that it was not fitted on.
        groups: (N,), patients or lesions.
        weights: (B + 1, N) resampled images, the first row all ones.
    """
    sets = sets_of(fitted, scores.probabilities)
    holds = sets[np.arange(len(scores)), scores.labels]
    resampled = None if len(np.unique(groups)) == len(groups) else weights
    estimates = _coverage_by_class(holds, scores.labels, groups, len(fitted.least), resampled)
    sizes = sets.sum(axis=1)
    return Coverage(tuple(estimates), float(sizes.mean()), float((sizes == 1).mean()), float((sizes == 0).mean()))


def mean_coverage(
    fitted: Sequence[Conformal], runs: Sequence[Scores], groups: np.ndarray, weights: np.ndarray
) -> list[Estimate]:
    """Return the coverage of each class, the mean over runs on the same test images, with 95% intervals.

    Args:
        fitted: results of `calibrate`, one per run.
        runs: predictions that they were not fitted on.
        groups: (N,), patients or lesions.
        weights: (B + 1, N) resampled images, the first row all ones.
    """
    labels = runs[0].labels
    rows = np.arange(len(labels))
    holds = np.mean(
        [sets_of(sets, run.probabilities)[rows, labels] for sets, run in zip(fitted, runs, strict=True)], axis=0
    )
    return _coverage_by_class(holds, labels, groups, len(fitted[0].least), weights)


def _coverage_by_class(
    holds: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, weights: np.ndarray | None
) -> list[Estimate]:
    """Return bootstrap intervals of the (N,) coverage for each class; Wilson's without weights."""
    estimates = []
    for c in range(classes):
        members = labels == c
        share = float(holds[members].mean()) if members.any() else 0.0
        if weights is not None and 0 < share < 1:
            resampled = weights[:, members] @ holds[members] / weights[:, members].sum(axis=1)
            estimates.append(interval(resampled, int(members.sum())))
        else:  # a share of 0 or 1 is as certain as the number of patients allows
            units = len(np.unique(groups[members]))
            estimates.append(wilson(round(share * units), units))
    return estimates


def check_calibration_disjoint(calibration: np.ndarray, others: Sequence[np.ndarray]) -> None:
    """Raise if a calibration patient is also in another part.

    Args:
        calibration: groups of the calibration images.
        others: groups of the images of every other part.
    Raises:
        LeakFound: if a group is in both.
    """
    for other in others:
        shared = np.intersect1d(calibration, other)
        if len(shared):
            raise LeakFound(
                f"{len(shared)} calibration patients are also in another part. Patients used for conformal calibration "
                "must be used for nothing else; choose others."
            )
