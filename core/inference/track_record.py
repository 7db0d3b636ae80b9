"""How often a network is right about a class: on internal and external test images, at its operating point."""

import math
from dataclasses import dataclass

import numpy as np

from core.metrics.operating_point import predictive_values
from core.runs import Run, RunMeta
from core.runs.scores import load_part
from core.runs.series import class_report


@dataclass(frozen=True)
class Rates:
    """Sensitivity and specificity for one class on one test set.

    Attributes:
        title: title of the test set; "" for the internal one.
        sensitivity: share of the images with the class that the network finds, in [0, 1].
        specificity: share of the images without it that the network clears, in [0, 1].
    """

    title: str
    sensitivity: float
    specificity: float

    def text(self, name: str, alarm: bool) -> str:
        """Format as natural frequencies, which are understood better than rates (Gigerenzer et al. 2007).

        Args:
            name: name of the class, as inside a sentence.
            alarm: whether the class is a condition that is present or absent, not one class of several.
        """
        place = f"On {self.title}: of 100" if self.title else "Of 100 test"
        hits, errors = _of_100(self.sensitivity), _of_100(1 - self.specificity)
        if alarm:
            return f"{place} images with {name}, it finds {hits}; of 100 without, it raises a false alarm in {errors}."
        return f"{place} images of {name}, it recognizes {hits}; of 100 others, it misclassifies {errors} as {name}."

    def predictive_text(self, name: str, alarm: bool, prevalence: float) -> str:
        """Format how many positive and negative predictions are right where the class has some prevalence.

        Args:
            name: name of the class, as inside a sentence.
            alarm: whether the class is a condition that is present or absent; see `text`.
            prevalence: share of patients with the class, in (0, 1).
        """
        values = predictive_values(np.array(self.sensitivity), np.array(self.specificity), prevalence)
        titles = ("positive", "negative") if alarm else ("such", "other")
        kinds = zip(titles, map(float, values), strict=True)
        counts = [
            f"of 100 {kind} predictions, {_of_100(value)} are right" for kind, value in kinds if not math.isnan(value)
        ]
        basis = f", by the rates on {self.title}" if self.title else ""
        return f"Where {prevalence:.0%} of patients have {name}{basis}: {'; '.join(counts)}."


def rated_class(meta: RunMeta, target: int) -> int:
    """Return the class whose rates are reported: the condition in a binary task, else the predicted target."""
    return target if meta.positive is None else meta.positive


def track_record(run: Run, target: int) -> list[Rates]:
    """Return how often a run is right about a class: on internal test images, then on external sets of two classes.

    Args:
        run: the run.
        target: index of the class or finding; each is evaluated against the rest.
    Returns:
        nothing for a finding that too few test images show.
    """
    labels = run.meta.labels
    report = {row["class"]: row for row in class_report(load_part(run).scores, labels)}
    row = report.get(labels[target])
    if row is None:
        return []
    rates = [Rates("", float(row["sensitivity"]), float(row["specificity"]))]
    if run.meta.positive is not None and target == run.meta.positive:
        rates += [
            Rates(external.title, external.metrics["sensitivity"], external.metrics["specificity"])
            for external in run.meta.external.values()
            if not external.refused
        ]
    return rates


def _of_100(share: float) -> int:
    return round(100 * share)
