"""Sentences and table of the start page, computed from stored runs; the finding is in `core.analysis.contest`."""

from collections.abc import Mapping

from core.analysis.contest import LOOP, listed, way_of
from core.inference.sentences import in_sentence
from core.inference.track_record import Rates
from core.metrics import Metric, SeriesEstimate
from core.metrics.learning_curves import Fit, label_multiplier
from core.models import FAMILY_TITLES, MODELS
from core.runs import RunMeta
from core.runs.series import Series

INTRODUCTIONS = {  # family -> what it is, as a sentence
    "A": "**From scratch.** The network learns everything from the labeled images.",
    "B": "**ImageNet or generic transfer.** An encoder pretrained on everyday photographs extracts features from each "
    "image, and a classifier is trained on them.",
    "C": "**Medical transfer.** The same encoder, trained further on other medical images first.",
}
LOOP_MEANING = (
    "Plain loop: straightforward training of a pretrained network, with settings that nobody tuned; every family "
    "should beat it."
)


def meaning_text(
    size: float, metric: Metric, summaries: Mapping[str, SeriesEstimate], names: Mapping[str, Series]
) -> str:
    """Return the performance to expect at one training-set size, best family first, then the plain loop.

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


def best_family(summaries: Mapping[str, SeriesEstimate], metric: Metric) -> str:
    """Return the family with the best estimate; the plain loop is none."""
    values = {family: estimate.value for family, estimate in summaries.items() if family != LOOP}
    return (max if metric.higher_is_better else min)(values, key=values.__getitem__)


def rates_text(meta: RunMeta, best: Series, estimates: Mapping[str, SeriesEstimate]) -> str:
    """Return how often the best network is right, as natural frequencies; "" if the task has no positive class.

    Args:
        meta: any run of the task.
        best: the series of the best family.
        estimates: metric -> its estimate, at the operating points of that series.
    """
    if meta.positive is None:
        return ""
    rates = Rates("", estimates["sensitivity"].value, estimates["specificity"].value)
    return f"The best is the network {way_of(best)}. {rates.text(in_sentence(meta.titles[meta.positive]), alarm=True)}"


def labels_text(fits: Mapping[Series, Fit], scratch: Series | None, best: Series, size: float) -> str:
    """Return how many times as many labels training from scratch needs to equal the best family.

    Args:
        fits: series -> its learning curve.
        scratch: the series that is trained from scratch; None if there is none.
        best: the series of the best family.
        size: images per class of that series.
    Returns:
        "" if training from scratch is the best, or a curve is missing.
    """
    if scratch is None or scratch == best or scratch not in fits or best not in fits:
        return ""
    needed = label_multiplier(fits[scratch], fits[best], size).text(1, " times")
    return f"To equal the best of these, training from scratch needs {needed} as many labeled images."


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
