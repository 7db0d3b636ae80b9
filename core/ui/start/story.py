"""Sentences and table of the start page, computed from stored runs; the finding is in `core.analysis.contest`."""

from collections.abc import Mapping

from core.analysis.contest import LOOP, listed, way_of
from core.metrics import Metric, SeriesEstimate
from core.models import FAMILY_TITLES, MODELS
from core.runs.series import Series

INTRODUCTIONS = {  # family -> what it is, as a sentence
    "A": "**From scratch.** The network learns everything from the labeled images.",
    "B": "**ImageNet or generic transfer.** An encoder pretrained on everyday photographs describes each image, and a "
    "classifier learns from its descriptions.",
    "C": "**Medical transfer.** The same encoder, trained further on other medical images first.",
}
LOOP_MEANING = (
    "Plain loop: straightforward training of a pretrained network, with settings that nobody tuned; every family "
    "should beat it."
)


def meaning_text(
    size: float, metric: Metric, summaries: Mapping[str, SeriesEstimate], names: Mapping[str, Series]
) -> str:
    """Return what to expect at one training-set size, best family first, then the plain loop.

    Args:
        size: labeled images per class.
        metric: the metric.
        summaries: family -> its estimate at that size.
        names: family -> its series.
    """
    ordered = sorted(summaries.items(), key=lambda row: row[1].value, reverse=metric.higher_is_better)
    values = {family: f"{estimate.value:.3f} {way_of(names[family])}" for family, estimate in ordered}
    loop = values.pop(LOOP, "")
    known = listed(list(values.values()))
    measured = f"With {size:g} labeled images per class, the measured {metric.title} is {known}."
    return f"{measured} A plain training loop that nobody tuned reaches {loop}." if loop else measured


def family_title(family: str, name: Series) -> str:
    """Return the title of a family on the start page, without the name of its network."""
    return "Plain loop" if family == LOOP else FAMILY_TITLES[MODELS[name.model].family]


def size_table(
    summaries: Mapping[str, SeriesEstimate], titles: Mapping[str, str], networks: Mapping[str, str], metric: Metric
) -> list[dict[str, str]]:
    """Return a row per family at one size: the mean with its intervals over test patients and over seeds.

    Args:
        summaries: family -> its estimate at that size.
        titles: family -> its title.
        networks: family -> its network and training strategy.
        metric: the metric.
    """
    return [
        {
            "Family": titles[family],
            metric.title: f"{estimate.value:.3f}",
            "Other test patients": estimate.patients.ends,
            "Other training images": estimate.seeds.ends,
            "Network": networks[family],
        }
        for family, estimate in summaries.items()
    ]
