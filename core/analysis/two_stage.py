"""Two-stage diagnosis from stored runs: pairs the stages seed by seed and keeps their images apart and in one order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from core.analysis.comparison import Judged, judged
from core.data.specs import family_of
from core.errors import BadRequest, LeakFound
from core.metrics import Scores, measure
from core.metrics.bootstrap import DRAWS
from core.metrics.operating_point import at_thresholds
from core.metrics.thresholds import Aim, OperatingPoint, fit_operating_point
from core.metrics.two_stage import TwoStage, two_stage
from core.runs import RunMeta, Store
from core.runs.series import Run, Series, check_comparable, runs_by_series

Key = TypeVar("Key")


def joint(
    screens: Sequence[Run],
    confirmers: Sequence[Run],
    singles: Sequence[Run],
    suspicious: tuple[int, ...],
    aim: Aim,
    draws: int = DRAWS,
) -> TwoStage:
    """Two-stage diagnosis: screens and second stages of one data set, against one model, seed by seed.

    Args:
        screens: binary runs, or runs of several classes whose suspicious ones are taken together.
        confirmers: runs of several classes.
        singles: the model to compare with, chosen without the test set (`best_single`).
        suspicious: classes of the second stage that count as suspicious.
        aim: of the screen's threshold, fitted on its held-out images.
        draws: bootstrap samples.
    Raises:
        BadRequest: if the runs are not of one data set and split, have no common seed, or were judged on different
            images.
        LeakFound: if a test image of one stage was learnt by another.
    """
    sides = [{meta.seed: (folder, meta) for folder, meta in side} for side in (screens, confirmers, singles)]
    seeds = sorted(set.intersection(*(set(side) for side in sides)))
    if not seeds:
        raise BadRequest("The stages have no seed in common; train them with the same seeds.")
    first, second, alone = ([side[seed] for seed in seeds] for side in sides)
    _check_one_set([*first, *second, *alone])
    for name in {meta.dataset for _, meta in (*first, *second, *alone)}:
        check_comparable([meta for _, meta in (*first, *second, *alone) if meta.dataset == name])
    points = [screen_point(run, suspicious, aim).threshold for run in first]
    answers = [judged(run) for run in second]
    order = {name: place for place, name in enumerate(answers[0].ids.tolist())}
    return two_stage(
        at_thresholds([_suspicious(_in(judged(run), order), suspicious) for run in first], points),
        [_in(one, order) for one in answers],
        [_suspicious(_in(judged(run), order), suspicious) for run in alone],
        suspicious,
        answers[0].groups,
        draws,
    )


def screen_point(run: Run, suspicious: tuple[int, ...], aim: Aim) -> OperatingPoint:
    """A screen's threshold, fitted on its held-out images.

    Args:
        run: binary, or of several classes whose suspicious ones are taken together.
        suspicious: those classes.
        aim: what the threshold is for.
    """
    return fit_operating_point(_suspicious(judged(run, "validation").scores, suspicious), aim)


def offered(store: Store, of: RunMeta) -> tuple[dict[str, dict[Series, list[Run]]], dict[str, dict[Series, list[Run]]]]:
    """Runs of one size on the images of one set that may be stages: data set -> series -> runs.

    Variants and runs made with leaks allowed are not among them; of another set than `of`'s the split with most runs.

    Args:
        store: the run store.
        of: a run of the set, with the size wanted.
    Returns:
        screens (binary runs, and those of several classes, whose suspicious ones are taken together), and second
        stages (runs of several classes).
    """
    found: dict[str, list[RunMeta]] = {}
    for meta in store.metas():
        related = family_of(meta.dataset) == family_of(of.dataset) and meta.train_size == of.train_size
        mine = meta.dataset != of.dataset or meta.split_hash == of.split_hash
        if related and mine and not meta.multilabel and not meta.variant and not meta.leaks:
            found.setdefault(meta.dataset, []).append(meta)
    for dataset, metas in found.items():
        split = Counter(meta.split_hash for meta in metas).most_common(1)[0][0]
        found[dataset] = [meta for meta in metas if meta.split_hash == split]
    runs = {dataset: runs_by_series(store, metas) for dataset, metas in found.items()}
    return runs, {dataset: series for dataset, series in runs.items() if found[dataset][0].positive is None}


def _suspicious(scores: Scores, classes: tuple[int, ...]) -> Scores:
    return scores if scores.positive is not None else scores.merged(classes)


def _in(one: Judged, order: Mapping[str, int]) -> Scores:
    """The scores in the order of the second stage's images."""
    if set(one.ids.tolist()) != set(order):
        raise BadRequest("The stages were judged on different test images and cannot be joined.")
    return one.scores.of(np.argsort([order[name] for name in one.ids.tolist()]))


def _check_one_set(runs: Sequence[Run]) -> None:
    metas = [meta for _, meta in runs]
    if len({family_of(meta.dataset) for meta in metas}) > 1:
        raise BadRequest(
            "Both stages must be trained and judged on the splits of one data set, but these are of "
            f"{', '.join(sorted({meta.dataset for meta in metas}))}."
        )
    if len({meta.labels for meta in metas if meta.positive is None}) > 1:
        raise BadRequest("Runs of several classes must have the same classes to be joined.")
    learnt: set[str] = set().union(*(judged(run, "validation").ids.tolist() for run in runs))
    tested: set[str] = set().union(*(judged(run).ids.tolist() for run in runs))
    if learnt & tested:
        raise LeakFound(f"{len(learnt & tested)} test images of one stage were learnt by another.")


def best_single(series: Mapping[Key, Sequence[Run]], suspicious: tuple[int, ...]) -> Key:
    """The series that separates suspicious images best on held-out images, by mean AUROC."""

    def held_out(key: Key) -> float:
        scores = [_suspicious(judged(run, "validation").scores, suspicious) for run in series[key]]
        return float(np.mean([measure(one, "auroc")["auroc"] for one in scores]))

    if not series:
        raise BadRequest("Expected at least one series to choose from.")
    return max(series, key=held_out)
