"""Sets of classes that hold the truth with a stated frequency, class by class: conformal prediction.

A class enters the set of an image if its probability is not among the lowest that images of this class get. Where these
come from decides what may be promised:

- `split`: calibration images whose patients serve nothing else, neither training nor a threshold nor a temperature. The
  set then holds the truth at least as often as stated, for every class and any number of images, if the new patients
  come from where the calibration patients came from. It costs labels beyond those of the training subset.
- `cross`: the out-of-fold answers inside the training subset. It costs no label, but every image has also been learnt
  from, and another model answers than those that were calibrated. Theory promises less (1 - 2 x error for sets made of
  all folds' models) and nothing for one refitted model; what holds is what is measured on the test set.

On patients from elsewhere coverage is measured and shown, never promised. One image of each patient calibrates, since
patients, not images, are exchangeable. Too few of them are refused with the number needed.

References:
    Vovk 2012, class-conditional validity, arXiv:1209.2673. Vovk 2015, cross-conformal, arXiv:1208.0806.
    Romano, Sesia and Candès 2020, CV+ for classes, arXiv:2006.02544.
    Angelopoulos and Bates 2021, an introduction, arXiv:2107.07511.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.errors import BadRequest, LeakFound
from core.metrics.bootstrap import Estimate, draw_weights, interval, wilson, with_once
from core.metrics.scores import Scores, refuse_test

Kind = Literal["split", "cross"]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Conformal:
    """Fitted conformal sets.

    Attributes:
        level: share of images whose set shall hold the truth, for each class.
        kind: where the calibration images come from.
        least: (C,) probability from which a class enters the set.
        patients: (C,) patients who calibrated each class.
    """

    level: float
    kind: Kind
    least: tuple[float, ...]
    patients: tuple[int, ...]

    @property
    def promise(self) -> str:
        """What may be said of new patients, in words."""
        if self.kind == "split":
            return (
                f"For every class at least {self.level:.0%} of sets hold the truth, if new patients are like the "
                f"{sum(self.patients)} calibration patients, who served nothing else."
            )
        return (
            f"Meant to hold the truth in {self.level:.0%} of cases, but calibrated on out-of-fold answers inside the "
            "training subset: no guarantee; what counts is the coverage measured on the test set."
        )


@dataclass(frozen=True)
class Coverage:
    """What conformal sets do on test images.

    Attributes:
        holds: (C,) share of the images of each class whose set holds it.
        size: mean number of classes in a set.
        single, empty: share of sets with one class, and with none.
    """

    holds: tuple[Estimate, ...]
    size: float
    single: float
    empty: float


def needed(level: float) -> int:
    """Calibration patients of each class without whom a level cannot be had: 9 for 90%, 19 for 95%.

    Raises:
        BadRequest: if the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise BadRequest(f"Expected a level between 0 and 1, but got {level}.")
    return int(np.ceil(1 / (1 - level) - 1 - _ROUNDING))


def calibrate(scores: Scores, groups: np.ndarray, level: float, seed: int = 0, labels: Sequence[str] = ()) -> Conformal:
    """Fits conformal sets.

    Args:
        scores: predictions on the part `calibration`, or on `validation` for `cross`; of findings, one finding.
        groups: (N,), patients or lesions, of each of whom one image a class is taken.
        level: share of sets that shall hold the truth.
        seed: of the choice of that image.
        labels: names of the classes, for what is said where one has too few.
    Raises:
        BadRequest: if these are test images, there are several findings, or a class has too few patients.
    """
    refuse_test(scores, "A conformal set")
    if scores.multilabel:
        raise BadRequest("Conformal sets are fitted for one class an image; of several findings choose one first.")
    enough, least, patients = needed(level), [], []
    for c in range(scores.probabilities.shape[1]):
        chosen = _one_each(np.flatnonzero(scores.labels == c), groups, seed)
        if len(chosen) < enough:
            short = labels[c] if labels else f"class number {c}"
            raise BadRequest(
                f"Sets at {level:.0%} need at least {enough} calibration patients of every class, but {short} has "
                f"{len(chosen)}. Label more, or ask for at most {1 - 1 / (len(chosen) + 1):.0%}."
            )
        rank = int(np.floor((1 - level) * (len(chosen) + 1) + _ROUNDING))
        least.append(float(np.sort(scores.probabilities[chosen, c])[rank - 1]))
        patients.append(len(chosen))
    return Conformal(level, "split" if scores.part == "calibration" else "cross", tuple(least), tuple(patients))


def _one_each(indices: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """One image of each group, by chance."""
    shuffled = np.random.default_rng(seed).permutation(indices)
    return np.sort(shuffled[np.unique(groups[shuffled], return_index=True)[1]])


def sets_of(fitted: Conformal, probabilities: np.ndarray) -> np.ndarray:
    """(N, C) probabilities -> (N, C) bool: the classes in each image's set."""
    return np.asarray(probabilities) >= np.array(fitted.least)


def coverage(fitted: Conformal, scores: Scores, groups: np.ndarray, weights: np.ndarray | None = None) -> Coverage:
    """Measures the sets on test images, with 95% intervals: Wilson, or by bootstrap where patients have several.

    Args:
        fitted: by `calibrate`.
        scores: predictions that it was not fitted on.
        groups: (N,), patients or lesions.
        weights: (B + 1, N) drawn images, first each once; drawn anew if None.
    """
    sets = sets_of(fitted, scores.probabilities)
    holds = sets[np.arange(len(scores)), scores.labels]
    plain = len(np.unique(groups)) == len(groups)
    if not plain and weights is None:
        weights = with_once(draw_weights(scores.labels, groups))
    found = []
    for c in range(len(fitted.least)):
        here = scores.labels == c
        if plain or weights is None or not here.any() or holds[here].all() or not holds[here].any():
            units = len(np.unique(groups[here]))  # a share of none or all is as sure as there are patients
            share = float(holds[here].mean()) if here.any() else 0.0
            found.append(wilson(round(share * units), units))
        else:
            found.append(interval(weights[:, here] @ holds[here] / weights[:, here].sum(axis=1), int(here.sum())))
    sizes = sets.sum(axis=1)
    return Coverage(tuple(found), float(sizes.mean()), float((sizes == 1).mean()), float((sizes == 0).mean()))


def mean_coverage(
    fitted: Sequence[Conformal], runs: Sequence[Scores], groups: np.ndarray, weights: np.ndarray
) -> list[Estimate]:
    """Coverage of each class, the mean over runs on the same test images, with 95% intervals over these.

    Args:
        fitted: of each run, by `calibrate`.
        runs: predictions that they were not fitted on.
        groups: (N,), patients or lesions.
        weights: (B + 1, N) drawn images, first each once.
    """
    labels = runs[0].labels
    every = np.arange(len(labels))
    holds = np.mean(
        [sets_of(one, run.probabilities)[every, labels] for one, run in zip(fitted, runs, strict=True)], axis=0
    )
    found = []
    for c in range(len(fitted[0].least)):
        here = labels == c
        share = float(holds[here].mean()) if here.any() else 0.0
        if 0 < share < 1:
            found.append(interval(weights[:, here] @ holds[here] / weights[:, here].sum(axis=1), int(here.sum())))
        else:  # a share of none or all is as sure as there are patients
            units = len(np.unique(groups[here]))
            found.append(wilson(round(share * units), units))
    return found


def check_served_once(calibration: np.ndarray, others: Sequence[np.ndarray]) -> None:
    """Stops if a calibration patient served anything else.

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
                "serve nothing else; set others apart."
            )
