"""A part of a run's predictions as one task: as it is, one finding of several, or one class against the rest.

Everything that judges stored runs reads them through here, so that pages and reports mean the same by a class or
finding. No statistic is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import BadRequest
from core.metrics.scores import Scores
from core.metrics.thresholds import Aim, fit_operating_point
from core.runs import RunMeta, read_predictions, scores_of, shared_classes
from core.types import VIEW, JudgedPart

Run = tuple[Path, RunMeta]


@dataclass(frozen=True)
class Judged:
    """One part of a run, as one binary task or as it is.

    Attributes:
        meta: the run.
        scores: predictions at the operating point.
        groups, ids: (N,) of their images.
    """

    meta: RunMeta
    scores: Scores
    groups: np.ndarray
    ids: np.ndarray


def judged(run: Run, part: JudgedPart = "test", target: int | None = None) -> Judged:
    """A part of a run's predictions.

    A finding has its stored operating point. A class against the rest has none: it gets the point that stored binary
    runs have, fitted here on the run's held-out images.

    Args:
        run: folder and record.
        part: which images.
        target: the finding or class to judge against the rest, of a task that is not binary; None for the task as it
            is.
    Raises:
        BadRequest: if a finding is not to be judged on the test images.
        CorruptRun: if they cannot be read.
    """
    folder, meta = run
    stored = read_predictions(folder, part)
    scores, kept = scores_of(meta, stored), np.ones(len(stored.ids), bool)
    if target is not None and meta.multilabel:
        if part == "test" and target not in scores.judged():
            raise BadRequest(f"{meta.labels[target]} cannot be judged: the test images do not show it, or too few do.")
        kept, scores = scores.known(target), scores.known_finding(target)
    elif target is not None and meta.positive is None:
        scores = scores.merged((target,))
        if part == "test":
            scores = scores.at(_threshold(run, target))
    return Judged(meta, scores, stored.groups[kept], stored.ids[kept])


def judged_shared(run: Run, external: str, elsewhere: bool, view: str = "") -> Judged:
    """Predictions on the classes that a run shares with an external test set, at the run's own operating point.

    Args:
        run: folder and record.
        external: name of the external set, on which the run was evaluated.
        elsewhere: whether of the external images, or of the run's own test images.
        view: of the external images only those of this projection; all where it is "".
    Raises:
        CorruptRun: if they cannot be read.
    """
    folder, meta = run
    stored = read_predictions(folder, "external", external) if elsewhere else read_predictions(folder)
    scores, kept = shared_classes(meta, stored, meta.external[external].labels)
    ids, groups = stored.ids[kept], stored.groups[kept]
    if not view:
        return Judged(meta, scores, groups, ids)
    seen = stored.facts[VIEW][kept] == view
    return Judged(meta, scores.of(seen), groups[seen], ids[seen])


def target_named(meta: RunMeta, label: str) -> int:
    """The class or finding of a name, to be judged against the rest.

    Raises:
        BadRequest: if the task is binary or has none of this name.
    """
    if meta.positive is not None or label not in meta.labels:
        raise BadRequest(
            f"{meta.dataset} has no class or finding {label!r} to judge against the rest; its task is {meta.task} with "
            f"{', '.join(meta.labels)}."
        )
    return meta.labels.index(label)


def _threshold(run: Run, target: int) -> float:
    """The operating point of a class against the rest; 0.5 where the run held no images of both out."""
    try:
        return fit_operating_point(judged(run, "validation", target).scores, Aim()).threshold
    except BadRequest:
        return 0.5
