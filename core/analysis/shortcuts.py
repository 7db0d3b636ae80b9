"""Do the classes of a set differ where no disease is? Classifiers that saw the border or the corners alone, in words.

They are stored runs whose images were blanked by a preprocessing step (`border-only`, `corner-only`), made by
`python -m trainer shortcuts`, and enter no comparison. Nothing is trained here.

References:
    DeGrave et al. 2021, doi:10.1038/s42256-021-00338-7. Maguolo and Nanni 2021, arXiv:2004.12823.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.metrics import Estimate
from core.runs import Store
from core.runs.series import Run, estimate, runs_by_series

STEPS = {"border-only": "the border", "corner-only": "the corners"}
CHANCE = 0.5


@dataclass(frozen=True)
class Shortcut:
    """What one part of the images gives away.

    Attributes:
        dataset: name.
        part: in words, such as `the border`.
        model, strategy: who answered.
        size: labelled images per class; None for all.
        seeds: of the runs.
        alone: AUROC of that part alone, the mean over seeds, with its interval over test images.
        whole: the same of whole images, where like runs are stored.
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
    def found(self) -> bool:
        """Whether that part alone is detectably better than chance."""
        return self.alone.low > CHANCE

    @property
    def sentence(self) -> str:
        """The finding and what follows from it."""
        whole = "" if self.whole is None else f"; from whole images it is {self.whole.value:.3f}"
        measured = (
            f"From {self.part} of the image alone, all else blanked, {self.model} ({self.strategy}, "
            f"{self.size or 'all'} labelled images per class, {len(self.seeds)} "
            f"{'seed' if len(self.seeds) == 1 else 'seeds'}) reaches an AUROC of "
            f"{self.alone.value:.3f} ({self.alone.low:.3f} to {self.alone.high:.3f}){whole}."
        )
        if not self.found:
            return f"{measured} That is not detectably better than chance: no shortcut was found there."
        return (
            f"{measured} That is better than chance: {self.part} {'tell' if self.part.endswith('s') else 'tells'} the "
            "classes apart without the disease, and a classifier of whole images may answer from there too."
        )


def warning_of(found: Sequence[Shortcut]) -> str:
    """What a reader of any answer on the data set must know, in a sentence; "" where no shortcut was found."""
    parts = [one for one in found if one.found]
    if not parts:
        return ""
    reached = " and ".join(
        f"from {one.part} alone an AUROC of {one.alone.value:.3f} ({one.alone.low:.3f} to {one.alone.high:.3f})"
        for one in parts
    )
    return (
        f"A classifier reaches {reached} on this data set, better than chance: what tells its images apart is not the "
        "disease alone, and any answer may come from there."
    )


def shortcuts_of(store: Store, dataset: str, split: str | None = None) -> list[Shortcut]:
    """What stored runs say of a data set, one row a part: of several sizes the largest, of several models the first.

    Args:
        store: the run store.
        dataset: name.
        split: hash of the one split that counts; None for that of the run made last.
    """
    metas = [meta for meta in store.metas(dataset) if not meta.leaks]
    blanked = [meta for meta in metas if meta.preparation in STEPS]
    if split is None and blanked:
        split = max(blanked, key=lambda meta: meta.made).split_hash
    series = runs_by_series(store, [meta for meta in metas if meta.split_hash == split])
    found = []
    for step in STEPS:
        rows = [runs for runs in series.values() if runs[0][1].preparation == step]
        if rows:
            found.append(_of(step, _largest(rows[0]), list(series.values())))
    return found


def _largest(runs: Sequence[Run]) -> list[Run]:
    """Those of the largest size."""
    most = max(meta.per_class for _, meta in runs)
    return [run for run in runs if run[1].per_class == most]


def _of(step: str, runs: Sequence[Run], every: Sequence[Sequence[Run]]) -> Shortcut:
    first, seeds = runs[0][1], {meta.seed for _, meta in runs}
    whole = [
        (folder, meta)
        for group in every
        for folder, meta in group
        if (meta.model, meta.strategy, meta.variant, meta.protocol) == (first.model, first.strategy, "", first.protocol)
        and meta.train_size == first.train_size
        and meta.seed in seeds
    ]
    return Shortcut(
        first.dataset, STEPS[step], first.model, first.strategy, first.train_size, tuple(sorted(seeds)),
        estimate(runs, ["auroc"])["auroc"], estimate(whole, ["auroc"])["auroc"] if len(whole) == len(runs) else None,
    )  # fmt: skip
