"""Figures by sex and by age, from stored predictions and from the ages and sexes kept beside the runs of a data set.

Groups differ in what they suffer from and in how they came to be photographed, so that a difference between them has
many possible causes; here it is measured, not explained. Patients or lesions are drawn whole, the same draws serve all
groups, and intervals are not corrected for the number of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.data.demographics import FEMALE, MALE, People
from core.data.specs import find_dataset
from core.errors import CorruptRun, LowshotError
from core.metrics import METRICS, Estimate, Scores
from core.metrics.bootstrap import interval, measure_drawn
from core.runs import RunMeta
from core.runs.metric_cache import weights_for
from core.runs.scores import judged
from core.runs.series import Run, check_comparable
from core.runs.sidecar import read_beside, save_beside

FILE = "people.json"
BANDS = (0, 40, 60, 80)  # years from which a band of ages begins
LEAST = 50  # patients or lesions that a group must have to be judged
LEAST_OF_CLASS = 5  # of each class, for a figure that is a mean over classes
DRAWS = 1000
SEX, AGE = "Sex", "Age"
BINARY = ("auroc", "balanced_accuracy", "sensitivity", "specificity")
SUSPICIOUS = "suspicious_auroc"


@dataclass(frozen=True)
class Subgroup:
    """The figures of some of the test images.

    Attributes:
        by: what the group is made by.
        name: of the group.
        images, groups: how many test images, and patients or lesions.
        classes: images of each class, or with each finding.
        too_few: why there are no figures; "" where there are some.
        figures: metric -> mean over runs with its 95% interval; one that is undefined in the group is left out.
        against: the group that is subtracted, the largest one; "" for that one itself.
        differences: metric -> this group minus that, with its 95% interval.
    """

    by: str
    name: str
    images: int
    groups: int
    classes: tuple[int, ...]
    too_few: str = ""
    figures: dict[str, Estimate] = field(default_factory=dict)
    against: str = ""
    differences: dict[str, Estimate] = field(default_factory=dict)


def title_of(figure: str) -> str:
    """A figure's name for people."""
    return "AUROC, suspicious or not" if figure == SUSPICIOUS else METRICS[figure].title


def keep_people(folder: Path, ids: np.ndarray, people: People, facts: dict[str, Any]) -> Path:
    """Keeps ages and sexes of test images beside the runs of their data set.

    Args:
        folder: of the data set's runs.
        ids: (N,) names of the test images.
        people: of these.
        facts: where they come from.
    """
    ages = [None if np.isnan(age) else round(float(age)) for age in people.age]
    return save_beside(folder, FILE, {**facts, "ids": ids.tolist(), "age": ages, "sex": people.sex.tolist()})


def people_of(folder: Path, ids: np.ndarray) -> People | None:
    """Ages and sexes of the test images of a run; None where none are kept.

    Args:
        folder: of the data set's runs.
        ids: (N,) names of the test images; those of which nothing is kept are of unknown age and sex.
    Raises:
        CorruptRun: if the record is damaged.
    """
    content = read_beside(folder, FILE)
    if content is None:
        return None
    try:
        rows = zip(content["ids"], content["age"], content["sex"], strict=True)
        known = {name: (float("nan") if age is None else float(age), str(sex)) for name, age, sex in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRun(f"{folder.name}/{FILE} cannot be read ({error})") from None
    found = [known.get(name, (float("nan"), "")) for name in ids.tolist()]
    return People(np.array([age for age, _ in found]), np.array([sex for _, sex in found], dtype=str))


def characteristics(folder: Path) -> str:
    """Who the test images are of, in a sentence; "" where nothing is kept or it is damaged."""
    try:
        content = read_beside(folder, FILE)
        people = people_of(folder, np.array(content["ids"])) if content else None
    except (CorruptRun, KeyError):
        return ""
    if people is None:
        return ""
    parts = [f"{name} {member.sum():,}" for _, name, member in members(people)]
    unknown = int((people.sex == "").sum()), int(np.isnan(people.age).sum())
    return f"Test images: {', '.join(parts)}; sex unknown {unknown[0]:,}, age unknown {unknown[1]:,}."


def members(people: People) -> list[tuple[str, str, np.ndarray]]:
    """What each group is made by, its name, and (N,) bool: who is in it. Unknown ages and sexes are in none."""
    found = [(SEX, name, people.sex == name) for name in (FEMALE, MALE)]
    for low, high in zip(BANDS, (*BANDS[1:], np.inf), strict=True):
        name = f"under {high:g}" if low == 0 else f"{low} and over" if high == np.inf else f"{low} to {high - 1:g}"
        found.append((AGE, name, (people.age >= low) & (people.age < high)))
    return found


def by_subgroup(runs: Sequence[Run], target: int | None = None, draws: int = DRAWS) -> list[Subgroup]:
    """Figures by sex and by age: the mean over runs with 95% intervals; none where no ages and sexes are kept.

    Args:
        runs: folders and records of runs on the same test images.
        target: the finding or class to judge against the rest; None for the task as it is.
        draws: bootstrap samples.
    Raises:
        BadRequest: if the runs were not judged on the same images.
        CorruptRun: if predictions, or the ages and sexes, cannot be read.
    """
    check_comparable([meta for _, meta in runs])
    every = [judged(run, target=target) for run in runs]
    scores, groups = every[0].scores, every[0].groups
    people = people_of(runs[0][0].parent, every[0].ids)
    if people is None:
        return []
    weights = weights_for(scores.labels, groups)[: draws + 1]
    views = [_views(one.scores, one.meta) for one in every]
    found: list[Subgroup] = []
    for by in (SEX, AGE):
        rows = [(name, member) for of, name, member in members(people) if of == by]
        found += _side_by_side(by, rows, scores, groups, views, weights)
    return found


def _views(scores: Scores, meta: RunMeta) -> list[tuple[Scores, dict[str, str]]]:
    """The predictions as they are and, of several classes, as suspicious or not: figure -> metric of each."""
    names = BINARY if scores.positive is not None else ("auroc", "balanced_accuracy", "accuracy")
    views = [(scores, {name: name for name in names})]
    try:
        suspicious = find_dataset(meta.dataset).suspicious
    except LowshotError:
        suspicious = ()
    classes = tuple(meta.labels.index(name) for name in suspicious if name in meta.labels)
    if scores.positive is None and not scores.multilabel and 0 < len(classes) < len(meta.labels):
        views.append((scores.merged(classes), {SUSPICIOUS: "auroc"}))
    return views


def _side_by_side(
    by: str,
    rows: list[tuple[str, np.ndarray]],
    scores: Scores,
    groups: np.ndarray,
    views: list[list[tuple[Scores, dict[str, str]]]],
    weights: np.ndarray,
) -> list[Subgroup]:
    drawn: dict[str, dict[str, np.ndarray]] = {}
    found = []
    for name, member in rows:
        size = len(np.unique(groups[member]))
        too_few = "" if size >= LEAST else f"fewer than {LEAST} patients or lesions"
        found.append(Subgroup(by, name, int(member.sum()), size, _counts(scores.of(member)), too_few))
        if not too_few:
            drawn[name] = _drawn(views, member, weights)
    largest = max((one for one in found if not one.too_few), key=lambda one: one.images, default=None)
    if largest is None:
        return found
    return [one if one.too_few else _judged(one, largest, drawn) for one in found]


def _counts(scores: Scores) -> tuple[int, ...]:
    if scores.multilabel:
        return tuple((np.nan_to_num(scores.labels) > 0.5).sum(axis=0).tolist())
    return tuple(np.bincount(scores.labels, minlength=scores.probabilities.shape[1]).tolist())


def _drawn(
    views: list[list[tuple[Scores, dict[str, str]]]], member: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Figure -> (B + 1,), the mean over runs on some images; what too few of a class leave undefined is not there."""
    found: dict[str, list[np.ndarray]] = {}
    for view in views:
        for scores, figures in view:
            some = scores.of(member)
            enough = min(_counts(some)) >= LEAST_OF_CLASS if not some.multilabel else True
            names = {figure: name for figure, name in figures.items() if enough or name == "accuracy"}
            values = measure_drawn(some, weights[:, member], tuple(names.values())) if names else {}
            for figure, name in names.items():
                found.setdefault(figure, []).append(values[name])
    return {figure: np.mean(values, axis=0) for figure, values in found.items()}


def _judged(one: Subgroup, largest: Subgroup, drawn: dict[str, dict[str, np.ndarray]]) -> Subgroup:
    own, other = drawn[one.name], drawn[largest.name]
    figures = {name: interval(values, one.images) for name, values in own.items()}
    if one is largest:
        return Subgroup(one.by, one.name, one.images, one.groups, one.classes, "", figures)
    minus = {name: interval(values - other[name], one.images) for name, values in own.items() if name in other}
    return Subgroup(one.by, one.name, one.images, one.groups, one.classes, "", figures, largest.name, minus)
