"""Two-stage verdict on one image: a sensitive screen, then a classifier.

Stages, thresholds and figures are those of `core.analysis.two_stage`, as on the Compare page. Here they are chosen
among the runs that predict the image, and applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.analysis.two_stage import best_single, joint, screen_point
from core.data import DATASETS
from core.data.specs import OPTIONS_SEPARATOR
from core.errors import LowshotError
from core.inference.predictor import Prediction
from core.inference.text import percent
from core.metrics.bootstrap import RESAMPLES
from core.metrics.thresholds import Aim, OperatingPoint
from core.metrics.two_stage import TwoStage
from core.models import FAMILY_LETTERS
from core.runs import RunMeta
from core.runs.selection import held_out_loss
from core.runs.series import Run


@dataclass(frozen=True)
class Stages:
    """The two stages and their joint performance.

    Attributes:
        screen, confirmer: families of the two runs; they may be the same.
        suspicious: indices of the classes that the screen passes on.
        point: the screen's threshold, fitted on its held-out images.
        seeds: number of seeds that the figures average.
        figures: measured on test images; or why they are unknown.
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
        stages: the stages applied.
        classes: titles of the suspicious classes.
        chance: probability, by the screen, of any suspicious class.
        second: title of the class that the second stage predicted; "" if it was not run.
        alarm: whether the final class is suspicious.
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
    """Return the indices of the classes that a screen passes on; empty if the task has no stages."""
    name = meta.dataset.partition(OPTIONS_SEPARATOR)[0]
    usual = DATASETS[name].suspicious if name in DATASETS and meta.task == "multiclass" else ()
    return tuple(index for index, label in enumerate(meta.labels) if label in usual)


def choose_stages(series: Mapping[str, Sequence[Run]], sensitivity: float, draws: int = RESAMPLES) -> Stages:
    """Choose both stages among families by held-out images alone, and measure them on the test images.

    The screen is the family that best separates suspicious images. The second stage is the one that gives the true
    class the highest probability.

    Args:
        series: by family, of a task with suspicious classes: the run that predicts, then its other seeds.
        sensitivity: target of the screen.
        draws: number of bootstrap resamples.
    Raises:
        CorruptRun: if a run's held-out images cannot be read.
    """
    aim = Aim("sensitivity", sensitivity)
    suspicious = suspicious_of(next(iter(series.values()))[0][1])
    screen = best_single(series, suspicious)
    confirmer = min(series, key=lambda family: np.mean([held_out_loss(run) for run in series[family]]))
    figures: TwoStage | str
    try:
        figures = joint(series[screen], series[confirmer], series[screen], suspicious, aim, draws)
    except LowshotError as error:
        figures = str(error)
    seeds = {meta.seed for _, meta in series[screen]} & {meta.seed for _, meta in series[confirmer]}
    point = screen_point(series[screen][0], suspicious, aim)
    return Stages(screen, confirmer, suspicious, point, len(seeds), figures)


def verdict(stages: Stages, meta: RunMeta, screen: Prediction, confirmer: Prediction) -> Verdict:
    """Combine both stages' predictions for one image.

    Args:
        stages: the stages.
        meta: of the second stage.
        screen: prediction of the first stage.
        confirmer: prediction of the second stage.
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
    """Format the verdict in a few words."""
    if not found.passed:
        return "not suspicious"
    return f"suspicious: {found.second}" if found.alarm else f"not suspicious after the second stage: {found.second}"


def verdict_text(found: Verdict) -> str:
    """Explain the verdict in a sentence or two."""
    stages, point = found.stages, found.stages.point
    screening = (
        f"Screening ({_letter(stages.screen)}): {'suspicious' if found.passed else 'not suspicious'}, "
        f"{percent(found.chance)} for any of {', '.join(found.classes)}. The threshold is {percent(point.threshold)}, "
        f"set for a sensitivity of {point.aim.sensitivity:.0%} on held-out images."
    )
    if not found.passed:
        return f"{screening} The second stage is not run."
    outcome_note = "" if found.alarm else ", which does not confirm the suspicion"
    return f"{screening} Second stage ({_letter(stages.confirmer)}): {found.second}{outcome_note}."


def performance_text(stages: Stages) -> str:
    """Describe the joint performance of both stages."""
    if isinstance(stages.figures, str):
        return f"The joint performance of both stages is unknown: {stages.figures}"
    figures = stages.figures
    caution = f" {stages.point.caution}" if stages.point.caution else ""
    return (
        f"Measured on {figures.sensitivity.n:,} test images, mean of {_seeds(stages.seeds)} (95% "
        "intervals over test patients): of the suspicious images "
        f"{figures.sensitivity:.0%} receive a suspicious class and {figures.named:.0%} the correct one; of "
        f"the others {figures.specificity:.0%} do not. The second stage sees {figures.workload.value:.0%} of all "
        f"images. {figures.verdict()}{caution}"
    )


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _letter(family: str) -> str:
    return FAMILY_LETTERS[family]
