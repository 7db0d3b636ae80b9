"""Two-stage diagnosis from stored runs: pairs the stages by seed and puts their images in the same order."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from core.data.specs import family_of
from core.errors import BadRequest, LeakFound
from core.metrics import Scores, measure
from core.metrics.bootstrap import RESAMPLES
from core.metrics.operating_point import at_thresholds
from core.metrics.thresholds import Aim, OperatingPoint, fit_operating_point
from core.metrics.two_stage import TwoStage, two_stage
from core.runs import Run, RunMeta, Store
from core.runs.scores import PartScores, load_part
from core.runs.series import Series, check_comparable, runs_by_series

Key = TypeVar("Key")


def joint(
    screens: Sequence[Run],
    confirmers: Sequence[Run],
    singles: Sequence[Run],
    suspicious: tuple[int, ...],
    aim: Aim,
    draws: int = RESAMPLES,
) -> TwoStage:
    """Evaluate two-stage diagnosis of one data set against one model, seed by seed.

    Args:
        screens: binary runs, or multiclass runs whose suspicious classes are merged.
        confirmers: multiclass runs.
        singles: the model to compare with, chosen without the test set (`best_single`).
        suspicious: classes of the second stage that count as suspicious.
        aim: goal of the screen's threshold, which is fitted on its held-out images.
        draws: number of bootstrap resamples.
    Raises:
        BadRequest: if the runs are not of one data set and split, have no common seed, or were evaluated on different
            images.
        LeakFound: if one stage was trained on a test image of another.
    """
    sides = [{run.meta.seed: run for run in side} for side in (screens, confirmers, singles)]
    seeds = sorted(set.intersection(*(set(side) for side in sides)))
    if not seeds:
        raise BadRequest("The stages have no seed in common; train them with the same seeds.")
    first, second, alone = ([side[seed] for seed in seeds] for side in sides)
    _check_one_set([*first, *second, *alone])
    for name in {meta.dataset for _, meta in (*first, *second, *alone)}:
        check_comparable(run for run in (*first, *second, *alone) if run.meta.dataset == name)
    points = [screen_point(run, suspicious, aim).threshold for run in first]
    confirmations = [load_part(run) for run in second]
    order = {name: place for place, name in enumerate(confirmations[0].ids.tolist())}
    return two_stage(
        at_thresholds([_suspicious(_in(load_part(run), order), suspicious) for run in first], points),
        [_in(confirmation, order) for confirmation in confirmations],
        [_suspicious(_in(load_part(run), order), suspicious) for run in alone],
        suspicious,
        confirmations[0].groups,
        draws,
    )


def screen_point(run: Run, suspicious: tuple[int, ...], aim: Aim) -> OperatingPoint:
    """Fit a screen's threshold on its held-out images.

    Args:
        run: binary, or multiclass with its suspicious classes merged.
        suspicious: those classes.
        aim: goal of the threshold.
    """
    return fit_operating_point(_suspicious(load_part(run, "validation").scores, suspicious), aim)


def stage_candidates(
    store: Store, of: RunMeta
) -> tuple[dict[str, dict[Series, list[Run]]], dict[str, dict[Series, list[Run]]]]:
    """Return the runs of one size on the images of one set that may be stages: data set -> series -> runs.

    Variants and runs made with leaks allowed are left out. For a data set other than that of `of`, the split with most
    runs is used.

    Args:
        store: the run store.
        of: a run of the set, with the wanted size.
    Returns:
        screens (binary runs, and multiclass runs whose suspicious classes are merged), and second stages (multiclass
        runs).
    """
    metas_by_dataset: dict[str, list[RunMeta]] = {}
    for meta in store.metas():
        related = family_of(meta.dataset) == family_of(of.dataset) and meta.train_size == of.train_size
        eligible = meta.dataset != of.dataset or meta.split_hash == of.split_hash
        if related and eligible and not meta.multilabel and not meta.variant and not meta.leaks:
            metas_by_dataset.setdefault(meta.dataset, []).append(meta)
    for dataset, metas in metas_by_dataset.items():
        split = Counter(meta.split_hash for meta in metas).most_common(1)[0][0]
        metas_by_dataset[dataset] = [meta for meta in metas if meta.split_hash == split]
    runs = {dataset: runs_by_series(store, metas) for dataset, metas in metas_by_dataset.items()}
    return runs, {dataset: series for dataset, series in runs.items() if metas_by_dataset[dataset][0].positive is None}


def _suspicious(scores: Scores, classes: tuple[int, ...]) -> Scores:
    return scores if scores.positive is not None else scores.merged(classes)


def _in(test: PartScores, order: Mapping[str, int]) -> Scores:
    """Return the scores in the order of the second stage's images."""
    if set(test.ids.tolist()) != set(order):
        raise BadRequest("The stages were evaluated on different test images and cannot be combined.")
    return test.scores.of(np.argsort([order[name] for name in test.ids.tolist()]))


def _check_one_set(runs: Sequence[Run]) -> None:
    metas = [meta for _, meta in runs]
    if len({family_of(meta.dataset) for meta in metas}) > 1:
        raise BadRequest(
            "Both stages must be trained and evaluated on the splits of one data set, but these are of "
            f"{', '.join(sorted({meta.dataset for meta in metas}))}."
        )
    if len({meta.labels for meta in metas if meta.positive is None}) > 1:
        raise BadRequest("Multiclass runs must have the same classes to be combined.")
    held_out: set[str] = set().union(*(load_part(run, "validation").ids.tolist() for run in runs))
    tested: set[str] = set().union(*(load_part(run).ids.tolist() for run in runs))
    if held_out & tested:
        raise LeakFound(f"{len(held_out & tested)} test images of one stage are training images of another.")


def best_single(series: Mapping[Key, Sequence[Run]], suspicious: tuple[int, ...]) -> Key:
    """Return the series that best separates suspicious images on held-out images, by mean AUROC.

    Raises:
        BadRequest: if no series has held-out images of suspicious and of other classes with every seed.
    """

    def held_out(key: Key) -> float:
        scores = [_suspicious(load_part(run, "validation").scores, suspicious) for run in series[key]]
        return float(np.mean([measure(run_scores, "auroc")["auroc"] for run_scores in scores]))

    means = {key: mean for key in series if math.isfinite(mean := held_out(key))}
    if not means:
        raise BadRequest("No series has held-out images of suspicious and other classes, by which the best is chosen.")
    return max(means, key=means.__getitem__)
