"""One part of a run's predictions as one task: the task itself, one finding, or one class against the rest.

All evaluation of stored runs reads predictions through this module, so that pages and reports mean the same by a class
or finding. Statistics are in `core.metrics`.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from core.errors import BadRequest
from core.metrics.scores import Scores
from core.metrics.thresholds import Aim, fit_operating_point
from core.runs import FittedRun, Run, RunMeta, read_predictions, scores_of, shared_classes
from core.types import VIEW, EvaluatedPart


@dataclass(frozen=True)
class PartScores:
    """One part of a run, as it is or as one binary task.

    Attributes:
        meta: the run.
        scores: predictions at the operating point.
        groups, ids: (N,) groups and names of their images.
    """

    meta: RunMeta
    scores: Scores
    groups: np.ndarray
    ids: np.ndarray


def load_part(run: Run, part: EvaluatedPart = "test", target: int | None = None) -> PartScores:
    """Load one part of a run's predictions.

    A finding has its stored operating point. A class against the rest has none; it gets the balanced operating point of
    stored binary runs, fitted here on the run's held-out images.

    Args:
        run: the run.
        part: the images to load.
        target: the finding, or the class against the rest, to evaluate; None for the task as it is. Ignored for binary
            tasks.
    Raises:
        BadRequest: if the test images do not allow a finding to be evaluated.
        CorruptRun: if the predictions cannot be read.
    """
    folder, meta = run
    stored = read_predictions(folder, part)
    scores, kept = scores_of(meta, stored), np.ones(len(stored.ids), bool)
    if target is not None and meta.multilabel:
        if part == "test" and target not in scores.evaluable:
            raise BadRequest(f"{meta.labels[target]} cannot be evaluated: no or too few test images show it.")
        kept, scores = scores.known(target), scores.known_finding(target)
    elif target is not None and meta.positive is None:
        scores = scores.merged((target,))
        if part == "test":
            with suppress(BadRequest):  # it stays 0.5 if the held-out images lack the class, or all others
                scores = scores.at(fit_operating_point(load_part(run, "validation", target).scores, Aim()).threshold)
    return PartScores(meta, scores, stored.groups[kept], stored.ids[kept])


def decision_rule(meta: FittedRun, target: int | None = None) -> str:
    """Return how runs of a task turn probabilities into decisions, as a sentence for captions.

    Args:
        meta: a run of the task.
        target: the finding, or the class against the rest, to evaluate; None for the task as it is.
    """
    if meta.task == "multiclass" and target is None:
        return "Every image is assigned to its most likely class."
    return "Decisions are made at the operating point fitted inside each training subset."


def load_shared_classes(run: Run, name: str, external: bool, view: str = "") -> PartScores:
    """Load predictions on the classes shared with an external test set, at the run's own operating point.

    Args:
        run: the run.
        name: name of the external set, on which the run was evaluated.
        external: True for the external images, False for the run's internal test images.
        view: projection to which the external images are restricted; "" for all.
    Raises:
        CorruptRun: if the predictions cannot be read.
    """
    folder, meta = run
    stored = read_predictions(folder, "external", name) if external else read_predictions(folder)
    scores, kept = shared_classes(meta, stored, meta.external[name].labels)
    ids, groups = stored.ids[kept], stored.groups[kept]
    if not view:
        return PartScores(meta, scores, groups, ids)
    in_view = stored.facts[VIEW][kept] == view
    return PartScores(meta, scores.of(in_view), groups[in_view], ids[in_view])


def target_named(meta: RunMeta, label: str) -> int:
    """Return the index of the class or finding with a name, to be evaluated against the rest.

    Raises:
        BadRequest: if the task is binary or has none of this name.
    """
    if meta.positive is not None or label not in meta.labels:
        raise BadRequest(
            f"{meta.dataset} has no class or finding {label!r} to evaluate against the rest; its task is {meta.task} "
            f"with {', '.join(meta.labels)}."
        )
    return meta.labels.index(label)
