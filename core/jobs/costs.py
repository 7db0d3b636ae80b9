"""How long trainings will take: what stored runs of the same kind took on such a device, and how far a job is.

Nothing is guessed: without such a run the answer is that it is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from core.jobs.events import Followed
from core.runs import PROTOCOL, RunMeta

_TOO_EARLY = 0.02
# Settings with which a step stays as dear as it was, and which change no other. All others change the work, or may.
_SAME_WORK = {"label_smoothing", "schedule", "lr", "weight_decay", "clip", "inner_lr", "outer_lr"}


@dataclass(frozen=True)
class Cost:
    """What one run will take.

    Attributes:
        seconds: the median of like runs, drawn through their sizes; 0 for a run that is in the store.
        runs: on how many stored runs it rests.
        elsewhere: whether these were of other data sets.
    """

    seconds: float
    runs: int
    elsewhere: bool = False


def cost_of(
    metas: Sequence[RunMeta], model: str, strategy: str, size: int | None, dataset: str, device: str
) -> Cost | None:
    """What a run will take; None where no like run is stored.

    Args:
        metas: stored runs; those with settings of their own do not count.
        model: of the run.
        strategy: of the run.
        size: of the run; None for all images.
        dataset: its data set; runs on others count only where there are none on this.
        device: as runs name it.
    """
    wanted = (model, strategy, device, "", "", PROTOCOL)
    like = [m for m in metas if (m.model, m.strategy, m.device, m.failed, m.variant, m.protocol) == wanted]
    here = [m for m in like if m.dataset == dataset]
    rows = here or like
    sized = [m for m in rows if (m.train_size is None) == (size is None)]
    if not sized:
        return None
    seconds = {n: median(m.seconds for m in sized if m.train_size == n) for n in {m.train_size for m in sized}}
    return Cost(_at(seconds, size), len(sized), not here)


def _at(seconds: dict[int | None, float], size: int | None) -> float:
    """Between two sizes on the line through them; beyond the largest in proportion; below the smallest as that."""
    if size in seconds:
        return seconds[size]
    sizes = sorted(one for one in seconds if one is not None)
    assert size is not None
    largest = sizes[-1]
    if size > largest:
        return seconds[largest] * size / largest
    return float(np.interp(size, sizes, [seconds[one] for one in sizes]))


def is_same_work(options: Iterable[str]) -> bool:
    """Whether runs with some settings stated take as long as those without."""
    return set(options) <= _SAME_WORK


def expected(
    metas: Sequence[RunMeta],
    pairs: Sequence[tuple[str, str]],
    sizes: Sequence[int | None],
    seeds: Sequence[int],
    dataset: str,
    device: str,
    options: Iterable[str] = (),
) -> list[Cost | None]:
    """What each run of a job will take, in the order in which they are trained.

    Args:
        metas: stored runs.
        pairs: models and strategies.
        sizes: of the runs.
        seeds: of the runs.
        dataset: their data set.
        device: as runs name it.
        options: settings that are stated; then nothing says which runs are in the store.
    """
    stated = set(options)
    if not is_same_work(stated):
        return [None] * (len(pairs) * len(sizes) * len(seeds))
    there = {
        (m.model, m.strategy, m.train_size, m.seed)
        for m in metas
        if (m.dataset, m.variant, m.protocol) == (dataset, "", PROTOCOL)
    }
    return [
        Cost(0.0, 1)
        if not stated and (model, strategy, size, seed) in there
        else cost_of(metas, model, strategy, size, dataset, device)
        for model, strategy in pairs
        for size in sizes
        for seed in seeds
    ]


def time_left(followed: Followed, weights: Sequence[float], elapsed: float) -> float | None:
    """Seconds that a job will still take; None where it is too early to say.

    Args:
        followed: where it is.
        weights: what its runs were expected to take; anything else than one a run counts them alike.
        elapsed: seconds since it began.
    """
    if not followed.runs_total:
        return None
    known = len(weights) == followed.runs_total and sum(weights) > 0
    each = list(weights) if known else [1.0] * followed.runs_total
    for place in followed.untrained & set(range(followed.runs_done)):  # they took no time, whatever was expected
        each[place] = 0.0
    if not sum(each):
        return 0.0
    under_way = each[followed.runs_done] * followed.of_run if followed.runs_done < len(each) else 0.0
    share = (sum(each[: followed.runs_done]) + under_way) / sum(each)
    if share > _TOO_EARLY:
        return elapsed * (1 - share) / share
    return max(0.0, sum(each) - elapsed) if known else None
