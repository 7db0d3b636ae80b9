"""Uncertainty of a prediction: its variability between seeds, and the conformal prediction set.

If weights of several seeds are stored, each predicts the image. If only one seed has weights, the stored test
predictions of the other seeds stand in: those for the test images to which this run gave the most similar probability.
Nothing here runs a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from core.inference.predictor import Prediction
from core.metrics.conformal import Conformal, Coverage, sets_of
from core.runs import Run, RunMeta, Store
from core.runs.scores import load_part

SIMILAR = 50  # number of test images with a similar probability
_ENDS = (2.5, 97.5)
_EDGE = 1e-6


@dataclass(frozen=True)
class SeedInterval:
    """Seed-to-seed variability of a probability: its range over runs that differ only in their seed.

    Attributes:
        low, high: probabilities of the class that the prediction is about.
        seeds: number of runs.
        evaluated: True if all runs predicted this image; False if test images with a similar probability stand in.
        how: explanation in a sentence.
        disagreement: share of the other seeds' predictions that differ from the decision, each at its own threshold;
            None if the most likely class is predicted, without a threshold.
    """

    low: float
    high: float
    seeds: int
    evaluated: bool
    how: str
    disagreement: float | None = None


@dataclass(frozen=True)
class PredictionSet:
    """A conformal prediction set.

    Attributes:
        classes: names in the set; empty if no class fits.
        level: target coverage.
        how: guarantee and measured coverage, in words.
    """

    classes: tuple[str, ...]
    level: float
    how: str


def siblings(store: Store, meta: RunMeta) -> list[Run]:
    """Return the runs that differ from a run only in their seed."""
    return [run for run in store.by_experiment.get(meta.cell[:-1], []) if run.meta.seed != meta.seed]


def seed_lookup(run: Run, others: Sequence[Run], target: int) -> tuple[np.ndarray, np.ndarray]:
    """Return test predictions of one class, for images on which all runs were evaluated.

    Returns:
        (N,) probabilities by the run, and (S, N) by its other seeds.
    Raises:
        CorruptRun: if they cannot be read.
    """
    first = load_part(run)
    position = {name: index for index, name in enumerate(first.ids.tolist())}
    rows = []
    for other in others:
        predictions = load_part(other)
        row = np.full(len(position), np.nan)
        positions = [position.get(name, -1) for name in predictions.ids.tolist()]
        known = np.array(positions) >= 0
        row[np.array(positions)[known]] = predictions.scores.probabilities[known, target]
        rows.append(row)
    table = np.array(rows).reshape(len(rows), len(position))
    common = ~np.isnan(table).any(axis=0)
    return first.scores.probabilities[common, target], table[:, common]


def thresholds_of(runs: Sequence[Run], target: int) -> np.ndarray | None:
    """Return (S,) thresholds of a class, one per run; None if the most likely class is predicted.

    Args:
        runs: runs that differ only in their seed.
        target: the class or finding.
    """
    first = runs[0].meta
    if first.multilabel:
        return np.array([run.meta.thresholds[target] for run in runs])
    if first.positive is None:
        return None
    thresholds = np.array([run.meta.threshold for run in runs])
    return thresholds if target == first.positive else 1 - thresholds


def interval_from_similar_images(
    own: np.ndarray, others: np.ndarray, probability: float, thresholds: np.ndarray | None = None
) -> SeedInterval | str:
    """Return the interval of other seeds' predictions for similar test images, or why there is none.

    Args:
        own: (N,) test predictions of the run, by `seed_lookup`.
        others: (S, N), those of its other seeds.
        probability: probability of the same class for the image.
        thresholds: (1 + S,), by `thresholds_of`, that of the run first.
    """
    seeds, images = others.shape
    if not seeds:
        return "Only one seed was trained, so seed-to-seed variability is unknown."
    if not images:
        return "The other seeds were evaluated on other images, so seed-to-seed variability is unknown."
    distance = np.abs(_logit(own) - _logit(np.array(probability)))
    similar = np.argsort(distance, kind="stable")[:SIMILAR]
    low, high = np.percentile(others[:, similar], _ENDS)
    how = (
        f"Only this seed's weights are stored, so the other {seeds} could not predict this image. The interval "
        f"spans the central 95% of their predictions for the {len(similar)} test images with the most similar "
        "probabilities."
    )
    disagreement = _disagreement(probability, others[:, similar], thresholds)
    return SeedInterval(float(low), float(high), seeds + 1, evaluated=False, how=how, disagreement=disagreement)


def interval_over_seeds(probabilities: Sequence[float], thresholds: np.ndarray | None = None) -> SeedInterval:
    """Return the range of several seeds' predictions for this image.

    Args:
        probabilities: (1 + S,), that of the run first.
        thresholds: (1 + S,), by `thresholds_of`.
    """
    low, high, count = min(probabilities), max(probabilities), len(probabilities)
    mean = float(np.mean(probabilities))
    how = f"Lowest and highest prediction of {count} seeds for this image; their mean is {mean:.1%}."
    disagreement = _disagreement(probabilities[0], np.array(probabilities[1:])[:, None], thresholds)
    return SeedInterval(low, high, count, evaluated=True, how=how, disagreement=disagreement)


def _disagreement(own: float, others: np.ndarray, thresholds: np.ndarray | None) -> float | None:
    """Return the share of (S, N) predictions of other seeds that differ from the decision of the run."""
    if thresholds is None or not others.size:
        return None
    return float(((others >= thresholds[1:, None]) != (own >= thresholds[0])).mean())


def _logit(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(probabilities, _EDGE, 1 - _EDGE)))


def prediction_set(fitted: Conformal, measured: Coverage, meta: RunMeta, prediction: Prediction) -> PredictionSet | str:
    """Return the classes that cannot be ruled out for an image; for findings, whether the target finding can.

    There is no set if the measured coverage of a class on test images is clearly below the target.

    Args:
        fitted: conformal sets of the run, by `core.analysis.comparison.conformal`; for findings, of the prediction's
            target.
        measured: their coverage on test images.
        meta: the run.
        prediction: the run's prediction for the image.
    Returns:
        the set, or why there is none.
    """
    labels, probabilities = meta.titles, prediction.probabilities
    if meta.multilabel:
        finding = labels[prediction.target]
        probability = probabilities[prediction.target]
        labels, probabilities = (f"no {finding}", finding), np.array([1 - probability, probability])
    missed = [
        f"{label} {share.value:.0%}"
        for label, share in zip(labels, measured.by_class, strict=True)
        if share.high < fitted.level
    ]
    if missed:
        return f"on test images, {fitted.level:.0%} sets contained the true class too rarely ({', '.join(missed)})."
    members = sets_of(fitted, probabilities[None])[0]
    coverages = ", ".join(f"{label} {share.value:.0%}" for label, share in zip(labels, measured.by_class, strict=True))
    return PredictionSet(
        tuple(label for label, member in zip(labels, members, strict=True) if member),
        fitted.level,
        f"{fitted.guarantee} Measured coverage on the test images: {coverages}.",
    )
