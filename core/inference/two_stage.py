"""Two-stage verdict on one image: a sensitive screen, then a classifier.

Stages, thresholds and figures are those of `core.analysis.two_stage`, as on the Compare page. Here they are chosen
among the runs that predict the image, and applied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.analysis.two_stage import best_single, joint, screen_point
from core.errors import LowshotError
from core.inference.case import NetworkResult
from core.inference.sentences import percent
from core.metrics.bootstrap import RESAMPLES
from core.metrics.thresholds import Aim, OperatingPoint
from core.metrics.two_stage import TwoStage
from core.models import FAMILY_LETTERS
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
        figures: joint performance on test images, or why it is unknown.
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
        probability: probability, by the screen, of any suspicious class.
        second: title of the class that the second stage predicted; "" if it was not run.
        alarm: whether the final class is suspicious.
    """

    stages: Stages
    classes: tuple[str, ...]
    probability: float
    second: str
    alarm: bool

    @property
    def passed(self) -> bool:
        """Whether the screen calls the image suspicious."""
        return bool(self.second)


def choose_stages(series: Mapping[str, Sequence[Run]], sensitivity: float, resamples: int = RESAMPLES) -> Stages:
    """Choose both stages among families by held-out images alone, and measure them on the test images.

    The screen is the family that best separates suspicious images. The second stage is the one that gives the true
    class the highest probability.

    Args:
        series: family -> the run that predicts, then its other seeds; of a task with suspicious classes.
        sensitivity: target of the screen.
        resamples: number of bootstrap resamples.
    Raises:
        CorruptRun: if a run's held-out images cannot be read.
    """
    aim = Aim("sensitivity", sensitivity)
    suspicious = next(iter(series.values()))[0].meta.suspicious
    screen = best_single(series, suspicious)
    confirmer = min(series, key=lambda family: np.mean([held_out_loss(run) for run in series[family]]))
    figures: TwoStage | str
    try:
        figures = joint(series[screen], series[confirmer], series[screen], suspicious, aim, resamples)
    except LowshotError as error:
        figures = str(error)
    seeds = {meta.seed for _, meta in series[screen]} & {meta.seed for _, meta in series[confirmer]}
    point = screen_point(series[screen][0], suspicious, aim)
    return Stages(screen, confirmer, suspicious, point, len(seeds), figures)


def verdict_of(stages: Stages, results: Mapping[str, NetworkResult]) -> Verdict | None:
    """Combine both stages' predictions for one image; None if a stage has no prediction.

    Args:
        stages: the stages.
        results: family -> result.
    """
    screen, confirmer = results[stages.screen].prediction, results[stages.confirmer].prediction
    if screen is None or confirmer is None:
        return None
    titles, suspicious = results[stages.confirmer].meta.titles, stages.suspicious
    probability = float(screen.probabilities[list(suspicious)].sum())
    passed = probability >= stages.point.threshold
    decided = confirmer.decided[0]
    return Verdict(
        stages,
        tuple(titles[index] for index in suspicious),
        probability,
        titles[decided] if passed else "",
        passed and decided in suspicious,
    )


def outcome(verdict: Verdict) -> str:
    """Format the verdict in a few words."""
    if not verdict.passed:
        return "not suspicious"
    return (
        f"suspicious: {verdict.second}" if verdict.alarm else f"not suspicious after the second stage: {verdict.second}"
    )


def verdict_text(verdict: Verdict) -> str:
    """Explain the verdict in a sentence or two."""
    stages, point = verdict.stages, verdict.stages.point
    screening = (
        f"Screening ({FAMILY_LETTERS[stages.screen]}): {'suspicious' if verdict.passed else 'not suspicious'}, "
        f"{percent(verdict.probability)} for any of {', '.join(verdict.classes)}. The threshold is "
        f"{percent(point.threshold)}, set for a sensitivity of {point.aim.sensitivity:.0%} on held-out images."
    )
    if not verdict.passed:
        return f"{screening} The second stage is not run."
    outcome_note = "" if verdict.alarm else ", which does not confirm the suspicion"
    return f"{screening} Second stage ({FAMILY_LETTERS[stages.confirmer]}): {verdict.second}{outcome_note}."


def performance_text(stages: Stages) -> str:
    """Describe the joint performance of both stages."""
    if isinstance(stages.figures, str):
        return f"The joint performance of both stages is unknown: {stages.figures}"
    figures = stages.figures
    seeds = "one seed" if stages.seeds == 1 else f"{stages.seeds} seeds"
    caution = f" {stages.point.caution}" if stages.point.caution else ""
    return (
        f"Measured on {figures.sensitivity.n:,} test images, mean of {seeds} (95% "
        "intervals over test patients): of the suspicious images "
        f"{figures.sensitivity:.0%} receive a suspicious class and {figures.named:.0%} the correct one; of "
        f"the others {figures.specificity:.0%} do not. The second stage sees {figures.workload.value:.0%} of all "
        f"images. {figures.verdict()}{caution}"
    )
