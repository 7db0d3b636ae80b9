"""Estimates of training time from stored runs of the same kind on the same device, and the progress of a job.

Nothing is guessed: without such a run the time is unknown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from core.jobs.events import Progress
from core.runs import PROTOCOL, RunMeta

_TOO_EARLY = 0.02
# Settings that do not change the cost of a step or other settings. All others change the work, or may.
_SAME_WORK = {"label_smoothing", "schedule", "lr", "weight_decay", "clip", "inner_lr", "outer_lr"}


@dataclass(frozen=True)
class Cost:
    """Expected time of one run.

    Attributes:
        seconds: the median of comparable runs, interpolated over their sizes; 0 for a run that is in the store.
        runs: number of stored runs used.
        elsewhere: whether these were of other data sets.
        slower: whether these had fewer CPU threads, so that the time is an upper estimate.
    """

    seconds: float
    runs: int
    elsewhere: bool = False
    slower: bool = False


def cost_of(
    metas: Sequence[RunMeta], model: str, strategy: str, size: int | None, dataset: str, device: str
) -> Cost | None:
    """Estimate the time of a run; None if no comparable run is stored.

    Args:
        metas: stored runs; those with non-default settings do not count.
        model: name of the model.
        strategy: name of the training strategy.
        size: labeled images per class; None for all images.
        dataset: its data set; runs on others count only if there are none on this.
        device: as recorded in runs; on a CPU, runs with fewer threads count if there are none with as many.
    """
    key = (model, strategy, "", "", PROTOCOL)
    of_kind = [m for m in metas if (m.model, m.strategy, m.failed, m.variant, m.protocol) == key]
    same_device = [m for m in of_kind if m.device == device]
    comparable = same_device or [m for m in of_kind if 0 < _threads(m.device) < _threads(device)]
    same_dataset = [m for m in comparable if m.dataset == dataset]
    rows = same_dataset or comparable
    sized = [m for m in rows if (m.train_size is None) == (size is None)]
    if not sized:
        return None
    # Interpolate linearly between sizes, extrapolate in proportion above the largest, and use the smallest below. Runs
    # on all images have no size; they count as size 1.
    full = 1
    sizes = sorted({m.train_size or full for m in sized})
    seconds = [median(m.seconds for m in sized if (m.train_size or full) == n) for n in sizes]
    beyond = max(1.0, (size or full) / sizes[-1])
    expected_seconds = float(np.interp(size or full, sizes, seconds)) * beyond
    return Cost(expected_seconds, len(sized), not same_dataset, not same_device)


def _threads(device: str) -> int:
    """Return the number of threads of a CPU as recorded in runs; 0 for other devices."""
    count, _, kind = device.partition(" ")
    return int(count) if kind.startswith("CPU thread") and count.isdecimal() else 0


def is_same_work(options: Iterable[str]) -> bool:
    """Return whether runs with some settings changed take as long as those without."""
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
    """Estimate the time of each run of a job, in the order in which they are trained.

    Args:
        metas: stored runs.
        pairs: models and strategies.
        sizes: training-set sizes.
        seeds: seeds of each size.
        dataset: their data set.
        device: name of the device, as runs record it.
        options: settings that differ from the defaults; if any, stored runs cannot be recognized.
    """
    stated = set(options)
    if not is_same_work(stated):
        return [None] * (len(pairs) * len(sizes) * len(seeds))
    stored = {
        (m.model, m.strategy, m.train_size, m.seed)
        for m in metas
        if (m.dataset, m.variant, m.protocol) == (dataset, "", PROTOCOL)
    }
    return [
        Cost(0.0, 1)
        if not stated and (model, strategy, size, seed) in stored
        else cost_of(metas, model, strategy, size, dataset, device)
        for model, strategy in pairs
        for size in sizes
        for seed in seeds
    ]


def time_left(followed: Progress, weights: Sequence[float], elapsed: float) -> float | None:
    """Estimate the remaining seconds of a job; None if it is too early.

    Args:
        followed: its progress.
        weights: expected time of each run; if their number does not match, all runs count alike.
        elapsed: seconds since it began.
    """
    if not followed.runs_total:
        return None
    known = len(weights) == followed.runs_total and sum(weights) > 0
    costs = list(weights) if known else [1.0] * followed.runs_total
    for index in followed.untrained & set(range(followed.runs_done)):  # they took no time, whatever was estimated
        costs[index] = 0.0
    if not sum(costs):
        return 0.0
    under_way = costs[followed.runs_done] * followed.of_run if followed.runs_done < len(costs) else 0.0
    share = (sum(costs[: followed.runs_done]) + under_way) / sum(costs)
    if share > _TOO_EARLY:
        return elapsed * (1 - share) / share
    return max(0.0, sum(costs) - elapsed) if known else None
