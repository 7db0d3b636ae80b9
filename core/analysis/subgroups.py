"""Metrics by sex and age, from stored predictions and the demographics stored next to the runs of a data set.

Groups differ in disease spectrum and in how they came to be imaged, so a difference between them has many possible
causes. It is measured here, not explained. Patients or lesions are resampled as a whole, all groups share the same
resamples, and intervals are not corrected for the number of groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.data.demographics import FEMALE, MALE, Demographics
from core.errors import CorruptRun
from core.metrics import METRICS, Estimate, Scores
from core.metrics.bootstrap import interval, measure_resamples
from core.metrics.measures import support, unit_weights
from core.runs import Run, RunMeta
from core.runs.metric_cache import weights_for
from core.runs.scores import load_part
from core.runs.series import check_comparable
from core.runs.sidecar import read_sidecar, save_sidecar

FILE = "people.json"
BANDS = (0, 40, 60, 80)  # lower ends of the age bands, in years
LEAST = 50  # patients or lesions that a group needs to be evaluated
LEAST_OF_CLASS = 5  # images of each class that a mean over classes needs
DRAWS = 1000
SEX, AGE = "Sex", "Age"
BINARY = ("auroc", "balanced_accuracy", "sensitivity", "specificity")
SUSPICIOUS = "suspicious_auroc"


@dataclass(frozen=True)
class Subgroup:
    """Metrics of a subgroup of the test images.

    Attributes:
        by: the grouping variable.
        name: name of the group.
        images, groups: number of test images, and of patients or lesions.
        classes: number of images of each class, or with each finding.
        too_few: why there are no figures; "" if there are.
        figures: metric -> mean over runs with its 95% interval; metrics that are undefined in the group are left out.
        against: reference group, the largest one; "" for that group itself.
        differences: metric -> this group minus the reference, with its 95% interval.
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
    """Return the display name of a figure."""
    return "AUROC, suspicious or not" if figure == SUSPICIOUS else METRICS[figure].title


def save_demographics(folder: Path, ids: np.ndarray, people: Demographics, facts: dict[str, Any]) -> Path:
    """Store ages and sexes of test images next to the runs of their data set.

    Args:
        folder: folder of the data set's runs.
        ids: (N,) names of the test images.
        people: their ages and sexes.
        facts: origin of the data.
    """
    ages = [None if np.isnan(age) else round(float(age)) for age in people.age]
    return save_sidecar(folder, FILE, {**facts, "ids": ids.tolist(), "age": ages, "sex": people.sex.tolist()})


def stored_demographics(folder: Path, ids: np.ndarray | None = None) -> Demographics | None:
    """Read ages and sexes of the test images of a run; None if none are stored.

    Args:
        folder: folder of the data set's runs.
        ids: (N,) names of the test images, all that are stored by default; age and sex of others are unknown.
    Raises:
        CorruptRun: if the record is damaged.
    """
    content = read_sidecar(folder, FILE)
    if content is None:
        return None
    try:
        rows = zip(content["ids"], content["age"], content["sex"], strict=True)
        known = {name: (float("nan") if age is None else float(age), str(sex)) for name, age, sex in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRun(f"{folder.name}/{FILE} cannot be read ({error})") from None
    people = [known.get(name, (float("nan"), "")) for name in (known if ids is None else ids.tolist())]
    return Demographics(np.array([age for age, _ in people]), np.array([sex for _, sex in people], dtype=str))


def characteristics(folder: Path) -> str:
    """Describe the demographics of the test images in a sentence; "" if none are stored or the record is damaged."""
    try:
        people = stored_demographics(folder)
    except CorruptRun:
        return ""
    if people is None:
        return ""
    parts = [f"{name} {member.sum():,}" for _, name, member in members(people)]
    unknown = int((people.sex == "").sum()), int(np.isnan(people.age).sum())
    return f"Test images: {', '.join(parts)}; sex unknown {unknown[0]:,}, age unknown {unknown[1]:,}."


def members(people: Demographics) -> list[tuple[str, str, np.ndarray]]:
    """Return the grouping variable, name and (N,) bool membership of each group; unknown ages and sexes are in none."""
    groups = [(SEX, name, people.sex == name) for name in (FEMALE, MALE)]
    for low, high in zip(BANDS, (*BANDS[1:], np.inf), strict=True):
        name = f"under {high:g}" if low == 0 else f"{low} and over" if high == np.inf else f"{low} to {high - 1:g}"
        groups.append((AGE, name, (people.age >= low) & (people.age < high)))
    return groups


def by_subgroup(runs: Sequence[Run], target: int | None = None, draws: int = DRAWS) -> list[Subgroup]:
    """Return metrics by sex and age: the mean over runs with 95% intervals; empty if no demographics are stored.

    Args:
        runs: runs on the same test images.
        target: the finding, or class against the rest, to evaluate; None for the task as it is.
        draws: number of bootstrap resamples.
    Raises:
        BadRequest: if the runs were not evaluated on the same images.
        CorruptRun: if predictions, or the demographics, cannot be read.
    """
    check_comparable(runs)
    tests = [load_part(run, target=target) for run in runs]
    scores, groups = tests[0].scores, tests[0].groups
    people = stored_demographics(runs[0].folder.parent, tests[0].ids)
    if people is None:
        return []
    weights = weights_for(scores.labels, groups)[: draws + 1]
    views = [_views(test.scores, test.meta) for test in tests]
    subgroups: list[tuple[Subgroup, dict[str, np.ndarray]]] = []
    for by, name, member in members(people):
        size = len(np.unique(groups[member]))
        too_few = "" if size >= LEAST else f"fewer than {LEAST} patients or lesions"
        subgroup = Subgroup(by, name, int(member.sum()), size, _counts(scores.of(member)), too_few)
        subgroups.append((subgroup, {} if too_few else _resampled(views, member, weights)))
    # The largest group of each variable is the reference of the others.
    evaluated = [row for row in subgroups if not row[0].too_few]
    largest = {
        by: max((row for row in evaluated if row[0].by == by), key=lambda row: row[0].images)
        for by in {subgroup.by for subgroup, _ in evaluated}
    }
    return [
        subgroup if subgroup.too_few else _with_metrics(subgroup, values, *largest[subgroup.by])
        for subgroup, values in subgroups
    ]


def _views(scores: Scores, meta: RunMeta) -> list[tuple[Scores, dict[str, str]]]:
    """Return the predictions with their figures (figure -> metric); multiclass ones also as suspicious or not."""
    names = BINARY if scores.positive is not None else ("auroc", "balanced_accuracy", "accuracy")
    views = [(scores, {name: name for name in names})]
    if scores.positive is None and 0 < len(meta.suspicious) < len(meta.labels):
        views.append((scores.merged(meta.suspicious), {SUSPICIOUS: "auroc"}))
    return views


def _counts(scores: Scores) -> tuple[int, ...]:
    return tuple(support(scores, unit_weights(scores))[:, 0].astype(int).tolist())


def _resampled(
    views: list[list[tuple[Scores, dict[str, str]]]], member: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return figure -> (B + 1,) mean over runs on some images; figures with too few images of a class are left out."""
    by_figure: dict[str, list[np.ndarray]] = {}
    for view in views:
        for scores, figures in view:
            some = scores.of(member)
            enough = min(_counts(some)) >= LEAST_OF_CLASS if not some.multilabel else True
            names = {figure: name for figure, name in figures.items() if enough or name == "accuracy"}
            values = measure_resamples(some, weights[:, member], tuple(names.values())) if names else {}
            for figure, name in names.items():
                by_figure.setdefault(figure, []).append(values[name])
    return {figure: np.mean(values, axis=0) for figure, values in by_figure.items()}


def _with_metrics(
    subgroup: Subgroup, own: dict[str, np.ndarray], largest: Subgroup, reference: dict[str, np.ndarray]
) -> Subgroup:
    """Return a group with its metrics and its differences from the largest group, from (B + 1,) values of both."""
    n = subgroup.images
    figures = {name: interval(values, n) for name, values in own.items()}
    if subgroup is largest:
        return replace(subgroup, figures=figures)
    differences = {name: interval(own[name] - reference[name], n) for name in own if name in reference}
    return replace(subgroup, figures=figures, against=largest.name, differences=differences)
