"""The two-stage verdict on one image: a sensitive screen, then which class. Stages, thresholds and figures are those of
`core.analysis.two_stage`, as on the Compare page; here they are chosen among the runs that answer, and applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.analysis.two_stage import best_single, joint, screen_point
from core.data import DATASETS
from core.data.specs import OPTIONS_AFTER
from core.errors import LowshotError
from core.inference.predictor import Prediction
from core.inference.text import percent
from core.metrics import Estimate
from core.metrics.bootstrap import DRAWS
from core.metrics.thresholds import Aim, OperatingPoint
from core.metrics.two_stage import TwoStage
from core.models import FAMILY_LETTERS
from core.runs import RunMeta
from core.runs.selection import held_out_loss
from core.runs.series import Run


@dataclass(frozen=True)
class Stages:
    """Who screens and who says which, and what both are worth together.

    Attributes:
        screen, confirmer: families of the two runs, which may be one.
        suspicious: indices of the classes that the screen lets through.
        point: the screen's threshold, fitted on its held-out images.
        seeds: trainings that the figures are the mean of.
        figures: measured on test images; or why they are not known.
    """

    screen: str
    confirmer: str
    suspicious: tuple[int, ...]
    point: OperatingPoint
    seeds: int
    figures: TwoStage | str


@dataclass(frozen=True)
class Verdict:
    """Both stages applied to one image.

    Attributes:
        stages: who decided.
        classes: titles of the suspicious classes.
        chance: probability, by the screen, that one of them is there.
        second: title of the class that the second stage decided for; "" where it was not asked.
        alarm: whether the image ends with a suspicious class.
    """

    stages: Stages
    classes: tuple[str, ...]
    chance: float
    second: str
    alarm: bool

    @property
    def passed(self) -> bool:
        """Whether the screen calls the image suspicious."""
        return bool(self.second)


def suspicious_of(meta: RunMeta) -> tuple[int, ...]:
    """Indices of the classes that a screen lets through; empty where the task has no stages."""
    name = meta.dataset.partition(OPTIONS_AFTER)[0]
    usual = DATASETS[name].suspicious if name in DATASETS and meta.task == "multiclass" else ()
    return tuple(index for index, label in enumerate(meta.labels) if label in usual)


def choose_stages(series: Mapping[str, Sequence[Run]], sensitivity: float, draws: int = DRAWS) -> Stages:
    """Picks both stages among families, by held-out images alone, and measures them on the test images.

    The screen separates suspicious images best; the second stage gives the true class the highest probability.

    Args:
        series: by family, of a task with suspicious classes: the run that answers, then its other seeds.
        sensitivity: wanted of the screen.
        draws: bootstrap samples.
    Raises:
        CorruptRun: if a run's held-out images cannot be read.
    """
    aim = Aim("sensitivity", sensitivity)
    suspicious = suspicious_of(next(iter(series.values()))[0][1])
    screen = best_single(series, suspicious)
    confirmer = min(series, key=lambda family: np.mean([held_out_loss(*run) for run in series[family]]))
    figures: TwoStage | str
    try:
        figures = joint(series[screen], series[confirmer], series[screen], suspicious, aim, draws)
    except LowshotError as error:
        figures = str(error)
    seeds = {meta.seed for _, meta in series[screen]} & {meta.seed for _, meta in series[confirmer]}
    point = screen_point(series[screen][0], suspicious, aim)
    return Stages(screen, confirmer, suspicious, point, len(seeds), figures)


def verdict(stages: Stages, meta: RunMeta, screen: Prediction, confirmer: Prediction) -> Verdict:
    """Both stages' answers to one image, brought together.

    Args:
        stages: who decides.
        meta: of the second stage.
        screen: the first stage's answer.
        confirmer: the second stage's.
    """
    suspicious = stages.suspicious
    chance = float(screen.probabilities[list(suspicious)].sum())
    passed = chance >= stages.point.threshold
    decided = confirmer.decided[0]
    return Verdict(
        stages,
        tuple(meta.titles[index] for index in suspicious),
        chance,
        meta.titles[decided] if passed else "",
        passed and decided in suspicious,
    )


def outcome(found: Verdict) -> str:
    """The verdict in a few words."""
    if not found.passed:
        return "not suspicious"
    return f"suspicious: {found.second}" if found.alarm else f"not suspicious after the second stage: {found.second}"


def verdict_words(found: Verdict) -> str:
    """How the verdict came about, in a sentence or two."""
    stages, point = found.stages, found.stages.point
    said = (
        f"Screening ({_letter(stages.screen)}): {'suspicious' if found.passed else 'not suspicious'}, "
        f"{percent(found.chance)} for any of {', '.join(found.classes)}. Suspicious is from {percent(point.threshold)} "
        f"upwards, set to find {point.aim.sensitivity:.0%} of such images among those held out."
    )
    if not found.passed:
        return f"{said} The second stage is not asked."
    taken_back = "" if found.alarm else ", which takes the alarm back"
    return f"{said} Second stage ({_letter(stages.confirmer)}): {found.second}{taken_back}."


def measured_words(stages: Stages) -> str:
    """What both stages are worth together, in sentences."""
    if isinstance(stages.figures, str):
        return f"What both stages are worth together is not known: {stages.figures}"
    found = stages.figures
    caution = f" {stages.point.caution}" if stages.point.caution else ""
    return (
        f"Measured on {found.sensitivity.n:,} test images, mean of {_seeds(stages.seeds)} (95% "
        "intervals over test patients): of the suspicious ones "
        f"{_ranged(found.sensitivity)} end with a suspicious class and {_ranged(found.named)} with the right one; of "
        f"the others {_ranged(found.specificity)} do not. The second stage sees {found.workload.value:.0%} of all "
        f"images. {found.verdict()}{caution}"
    )


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _ranged(one: Estimate) -> str:
    return f"{one.value:.0%} ({one.low:.0%} to {one.high:.0%})"


def _letter(family: str) -> str:
    return FAMILY_LETTERS[family]
