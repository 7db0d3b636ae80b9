"""The contest between the families: the series that stands for each, the contrasts with their verdicts, the headline.

The rules are in `docs/protocol.md`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.analysis.comparison import compare_runs
from core.metrics import Metric
from core.metrics.comparisons import Difference, holm_corrected
from core.metrics.learning_curves import Bounded, Fit, images_needed
from core.models import FAMILY_LETTERS, MODELS
from core.runs import Run, Store
from core.runs.selection import default_runs
from core.runs.series import Series, comparison_proper, runs_by_series

LOOP = "plain loop"  # the baseline that nobody tuned
SEEDS = range(5)
PRIMARY = {  # data set -> labeled images per class at which contrasts get a verdict
    "kermany": (10, 50, 200),
    "ham10000": (10, 50, 100),
    "covid-radiography": (10, 50, 100),
    "nih-chestxray14": (10, 50, 100),
}
# Where a side of a contrast takes hours for each size, the largest sizes are left out.
_SCRATCH_SIZES = PRIMARY | {"nih-chestxray14": (10,)}
_DINO_LOOP_SIZES = dict.fromkeys(PRIMARY, (10, 50)) | {"nih-chestxray14": (10,)}


class Sides(NamedTuple):
    """The two series of a contrast, the first minus the second, and where it gets a verdict: data set -> sizes."""

    first: Series
    second: Series
    sizes: Mapping[str, tuple[int, ...]] = PRIMARY


class Contrast(NamedTuple):
    """A contrast on one data set at one size."""

    dataset: str
    size: int
    title: str


def plain_loop(series: Series) -> Series:
    """Return the plain loop on the encoder of a series."""
    return series._replace(strategy="plain-loop")


def _frozen(model: str) -> Series:
    return Series(model, "frozen-logistic")


_A = Series("scratch-cnn-160", "scratch")
PLAIN_SCRATCH = _A._replace(strategy="plain-scratch")
SMALL_SCRATCH = _A._replace(model="scratch-cnn-64")  # belongs to no contrast
LITE0, DINO = "EfficientNet-Lite0", "DINOv2-S"
ENCODERS = {  # title -> its series as B and, pretrained further on medical images, as C
    LITE0: (_frozen("imagenet-efficientnet-lite0-stages"), _frozen("medical-efficientnet-lite0-stages")),
    DINO: (_frozen("generic-dinov2-vits14-imgfocus"), _frozen("medical-dinov2-vits14-imgfocus")),
}
_B, _C = ENCODERS[DINO]
NAMED = {"A": _A, "B": _B, "C": _C, LOOP: plain_loop(_B)}  # family -> the series that stands for it
CONTRASTS = {
    **{f"B against A, {title}": Sides(b, _A, _SCRATCH_SIZES) for title, (b, _) in ENCODERS.items()},
    **{f"C against B, {title}": Sides(c, b) for title, (b, c) in ENCODERS.items()},
    **{
        f"{family} against its plain loop, {LITE0}": Sides(side, plain_loop(side))
        for family, side in zip("BC", ENCODERS[LITE0], strict=True)
    },
    f"B against its plain loop, {DINO}": Sides(_B, plain_loop(_B), _DINO_LOOP_SIZES),
    "A against its plain loop": Sides(_A, PLAIN_SCRATCH, _SCRATCH_SIZES),
}
QUESTIONS = {  # question -> part of the titles of its contrasts, and what their first and second sides are
    "Does an encoder pretrained on photographs beat training from scratch?": ("B against A", "B", "A"),
    "Does further pretraining on medical images help?": ("C against B", "C", "B"),
    "Do searched recipes beat an untuned loop on the same encoder or network?": (
        "against its plain loop", "the recipe", "the loop"
    ),
}  # fmt: skip
_BASELINES = ("plain-loop", "plain-scratch")
WAYS = {  # family of a model -> how its networks are trained, as the end of a sentence
    "scratch": "trained from scratch",
    "imagenet": "with ImageNet pretraining",
    "generic": "with generic self-supervised pretraining",
    "medical": "with medical pretraining",
}


@dataclass(frozen=True)
class Headline:
    """How many labels each family needs for the same performance, from the learning curves of a data set.

    Attributes:
        target: the best value of the metric that every family's curve reaches within its measured sizes.
        needed: family -> images per class that it needs for the target, the fewest first.
    """

    target: float
    needed: dict[str, Bounded]


def contestants(series: Iterable[Series]) -> dict[str, Series]:
    """Return the series that stands for each family, and the plain loop, among those stored.

    These are the series in `NAMED`, if they are stored. B, C and the plain loop share an encoder: they use another
    encoder of the contest if more of its series are stored, or equally many with C among them. If none of a family's
    series is stored, as for a user's own images, the family's first series with default settings stands for it,
    preferably one with a frozen encoder.
    """
    stored = comparison_proper(series)
    shared = {sides: {*sides, plain_loop(sides[0])} for sides in ((_B, _C), *ENCODERS.values())}
    b, c = max(shared, key=lambda sides: (len(shared[sides] & {*stored}), sides[1] in stored))
    if b in stored:
        others = set().union(*shared.values()) - shared[b, c]
        stored = [row for row in stored if row not in others]
    first = {"A": _A, "B": b, "C": c, LOOP: plain_loop(b)}
    by_family: dict[str, list[Series]] = {family: [] for family in NAMED}
    for row in stored:
        family = LOOP if row.strategy == "plain-loop" else FAMILY_LETTERS[MODELS[row.model].family]
        if family in by_family and (family == LOOP or row.strategy not in _BASELINES):
            by_family[family].append(row)
    return {
        family: min(rows, key=lambda row: (row != first[family], not row.strategy.startswith("frozen")))
        for family, rows in by_family.items()
        if rows
    }


def default_networks(store: Store, dataset: str) -> dict[str, Run]:
    """Return the run that predicts by default in each column: of the contest's series, if they are stored.

    The networks compared side by side thus share an encoder, as in the tables; see `core.runs.selection`.
    """
    named = {_A, *(series for pair in ENCODERS.values() for series in pair)}
    stand = contestants(runs_by_series(store, store.metas(dataset))).values()
    return default_runs(store, dataset, named.intersection(stand))


def planned() -> list[Contrast]:
    """Return every contrast of the protocol, data set by data set."""
    return [
        Contrast(dataset, size, title)
        for dataset in PRIMARY
        for title, sides in CONTRASTS.items()
        for size in sides.sizes.get(dataset, ())
    ]


def contrast_runs(store: Store, datasets: Iterable[str]) -> dict[Contrast, tuple[list[Run], list[Run]]]:
    """Return the runs of both sides of every planned contrast that is stored on these data sets."""
    sides_by_contrast = {}
    for dataset in datasets:
        metas = [meta for meta in store.metas(dataset) if not meta.leaks and meta.seed in SEEDS]
        series = runs_by_series(store, metas)
        for at in planned():
            first, second, _ = CONTRASTS[at.title]
            sides = [
                [run for run in series.get(name, ()) if run.meta.train_size == at.size] for name in (first, second)
            ]
            if at.dataset == dataset and all(sides):
                sides_by_contrast[at] = (sides[0], sides[1])
    return sides_by_contrast


def verdicts(store: Store) -> dict[Contrast, Difference]:
    """Compare both sides of every stored contrast in AUROC, corrected by Holm over all planned ones.

    A planned contrast without a p value, because it is not stored or has too few seeds, counts with p = 1 in both
    tests. Failed runs and failed acceptance tests therefore do not make the other tests less strict.

    Raises:
        BadRequest: if two series cannot be compared; see `core.analysis.comparison.paired`.
    """
    runs = contrast_runs(store, PRIMARY)
    differences = [compare_runs(first, second, ["auroc"])["auroc"] for first, second in runs.values()]
    return dict(zip(runs, holm_corrected(differences, len(planned())), strict=True))


def answers(differences: Mapping[Contrast, Difference]) -> list[str]:
    """Answer the protocol's questions by counting the verdicts of the contrasts behind each, one sentence per question.

    Args:
        differences: contrast -> its difference; planned contrasts that are not in it lack a side.
    """
    sentences = []
    for question, (title, first, second) in QUESTIONS.items():
        contrasts = [at for at in planned() if title in at.title]
        stored = [differences[at] for at in contrasts if at in differences]
        gains = [difference.effect for difference in stored if difference.winner == 0]
        losses = [-difference.effect for difference in stored if difference.winner == 1]
        counts = {
            f"{first} is better in {{}}{_range_text(gains)}": len(gains),
            f"{second} is better in {{}}{_range_text(losses)}": len(losses),
            "the two are equivalent in {}": sum(difference.verdict == "equivalent" for difference in stored),
            "the verdict is undecided in {}": sum(difference.verdict == "undecided" for difference in stored),
            "there are too few seeds in {}": sum(difference.verdict == "no verdict" for difference in stored),
            "a side is missing in {}": len(contrasts) - len(stored),
        }
        if contrasts:
            parts = listed([text.format(count) for text, count in counts.items() if count])
            sentences.append(f"{question} Of {len(contrasts)} contrasts, {parts}.")
    return sentences


def _range_text(sizes: Sequence[float]) -> str:
    """Return how large some differences of AUROC are, in parentheses."""
    low, high = (f"{size:.3f}" for size in (min(sizes), max(sizes))) if sizes else ("", "")
    return f" (by {low} to {high} AUROC)" if low != high else f" (by {low} AUROC)" if low else ""


def headline(fits: Mapping[str, Fit]) -> Headline | None:
    """Return how many labeled images each family needs for a performance that all of them reach.

    Args:
        fits: family -> the learning curve of its series.
    Returns:
        None if fewer than two families have a curve.
    """
    if len(fits) < 2:
        return None
    sign = next(iter(fits.values())).sign
    reached = min(float(fit.rising(np.array(fit.sizes[-1:]))[0, 0]) for fit in fits.values())
    target = sign * math.floor(1000 * reached) / 1000
    needed = {family: images_needed(fit, target) for family, fit in fits.items()}
    return Headline(target, dict(sorted(needed.items(), key=lambda row: row[1].value)))


FINDING_NOTE = (
    "Read from curves fitted to the means. The intervals are over training samples and test patients together."
)


def finding_text(title: str, metric: Metric, finding: Headline, names: Mapping[str, Series]) -> str:
    """Return the finding as one sentence: the images per class that each family needs for the same performance.

    `FINDING_NOTE` says where its numbers come from and what its intervals are over.

    Args:
        title: title of the data set.
        metric: the metric of the curves.
        finding: the headline.
        names: family -> its series.
    """
    needs = [size.text(unit=f" {way_of(names[family])}") for family, size in finding.needed.items() if family != LOOP]
    return f"{title}: labeled images per class needed for {metric.title} {finding.target:.3f}: {listed(needs)}."


def way_of(name: Series) -> str:
    """Return how the networks of a series are trained, as the end of a sentence."""
    return WAYS[MODELS[name.model].family]


def listed(parts: Sequence[str]) -> str:
    """Return parts of a sentence as an enumeration."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
