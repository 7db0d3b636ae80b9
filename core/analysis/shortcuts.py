"""Shortcut learning, tested with border-only and corner-only classifiers.

These are stored runs whose images were blanked by a preprocessing step (`border-only`, `corner-only`). They are made by
`python -m trainer shortcuts` and enter no comparison. Nothing is trained here.

References:
    DeGrave et al. 2021, doi:10.1038/s42256-021-00338-7. Maguolo and Nanni 2021, arXiv:2004.12823.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from core.metrics import Estimate
from core.metrics.comparisons import MIN_SEEDS
from core.runs import Run, RunMeta, Store
from core.runs.series import estimate, runs_by_series

STEPS = {"border-only": "the border", "corner-only": "the corners"}
_NAMES = {"the border": "Borders", "the corners": "Corners"}
CHANCE, _NEAR = 0.5, 0.05


@dataclass(frozen=True)
class Shortcut:
    """Evidence of shortcut learning from one part of the images.

    Attributes:
        dataset: name.
        part: the part in words, such as `the border`.
        model, strategy: model and strategy of the classifier.
        size: labeled images per class; None for all.
        seeds: seeds of the runs.
        alone: AUROC from that part alone, the mean over seeds, with its interval over test images.
        whole: the same from whole images, if comparable runs are stored.
    """

    dataset: str
    part: str
    model: str
    strategy: str
    size: int | None
    seeds: tuple[int, ...]
    alone: Estimate
    whole: Estimate | None

    @property
    def detected(self) -> bool:
        """Whether that part alone is detectably better than chance."""
        return self.alone.low > CHANCE

    @property
    def sentence(self) -> str:
        """The finding and its consequence, in words."""
        whole = "" if self.whole is None else f"; from whole images it is {self.whole.value:.3f}"
        measured = (
            f"From {self.part} of the image alone, with the rest blanked out, {self.model} ({self.strategy}, "
            f"{self.size or 'all'} labeled images per class, {len(self.seeds)} "
            f"{'seed' if len(self.seeds) == 1 else 'seeds'}) reaches an AUROC of "
            f"{self.alone:.3f}{whole}."
        )
        if not self.detected:
            return f"{measured} That is not detectably better than chance: no shortcut was found there."
        subsets = "1 subset" if len(self.seeds) == 1 else f"{len(self.seeds)} subsets"
        few = "" if len(self.seeds) >= MIN_SEEDS else f" in {subsets}, too few for a verdict"
        return (
            f"{measured} That is better than chance{few}: {self.part} {'tell' if self.part.endswith('s') else 'tells'} "
            "the classes apart without the disease, and a classifier of whole images may rely on this too."
        )


def warning_of(shortcuts: Sequence[Shortcut]) -> str:
    """Return a warning for readers of any prediction on the data set, in a sentence; "" if no shortcut was found."""
    parts = [row for row in shortcuts if row.detected]
    if not parts:
        return ""
    near = all(row.whole is not None and row.alone.value > row.whole.value - _NEAR for row in parts)
    names = " and ".join(_NAMES[row.part] for row in parts).capitalize()
    reached = " and ".join(f"from {row.part} alone an AUROC of {row.alone:.3f}" for row in parts)
    verdict = "nearly suffice to distinguish the classes" if near else "distinguish the classes better than chance"
    return (
        f"{names} alone {verdict}: the network may recognize the hospital, not the disease. A classifier reaches "
        f"{reached}; any prediction may rely on this."
    )


def shortcuts_of(store: Store, dataset: str, split: str | None = None) -> list[Shortcut]:
    """Return the shortcut tests of a data set, one per part: the largest size of the first model.

    Args:
        store: the run store.
        dataset: name.
        split: hash of the split to use; None for that of the latest run.
    """
    shortcuts = []
    for step, (alone, whole) in runs_compared(store, dataset, split).items():
        first, seeds = alone[0].meta, sorted({run.meta.seed for run in alone})
        facts = dataset, STEPS[step], first.model, first.strategy, first.train_size, tuple(seeds)
        on_whole = estimate(whole, ["auroc"])["auroc"] if whole else None
        shortcuts.append(Shortcut(*facts, estimate(alone, ["auroc"])["auroc"], on_whole))
    return shortcuts


def runs_compared(store: Store, dataset: str, split: str | None = None) -> dict[str, tuple[list[Run], list[Run]]]:
    """Return the runs of each shortcut test: on one part of the images, and on whole images, one per seed.

    `shortcuts_of` explains the arguments; there are no runs on whole images if they do not have the same seeds.
    """
    metas = [meta for meta in store.metas(dataset) if not meta.leaks]
    blanked = [meta for meta in metas if meta.preparation in STEPS]
    if split is None and blanked:
        split = max(blanked, key=lambda meta: meta.made).split_hash
    series = list(runs_by_series(store, [meta for meta in metas if meta.split_hash == split]).values())
    compared = {}
    for step in STEPS:
        runs = next((runs for runs in series if runs[0].meta.preparation == step), None)
        if runs:
            most = max(run.meta.per_class for run in runs)
            alone = [run for run in runs if run.meta.per_class == most]
            compared[step] = alone, _on_whole_images(alone, chain.from_iterable(series))
    return compared


def _on_whole_images(runs: Sequence[Run], others: Iterable[Run]) -> list[Run]:
    """Return the runs with the same model, strategy, size and seeds on whole images; none if a seed is missing."""

    def kind(meta: RunMeta) -> tuple[object, ...]:
        return meta.model, meta.strategy, meta.protocol, meta.train_size

    first, seeds = runs[0].meta, {run.meta.seed for run in runs}
    whole = [run for run in others if not run.meta.variant and kind(run.meta) == kind(first) and run.meta.seed in seeds]
    return whole if len(whole) == len(runs) else []
