"""Results computed in advance and stored with the runs of a data set: what pages show before the user chooses anything.

These are the intervals of every series at every size, the intervals of the shortcut tests, and the contrasts of the
protocol. For the series that stand for the families, the learning curves and the differences at every size are stored
too.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from core.analysis.comparison import curves_to_store, difference_to_store
from core.analysis.contest import contestants, contrast_runs
from core.analysis.shortcuts import runs_compared
from core.errors import BadRequest
from core.runs import Run, Store
from core.runs.series import intervals_to_store, runs_by_series
from core.runs.stored_results import Results, save_results

METRIC = "auroc"  # of the learning curves that pages show first


def store_results(store: Store, dataset: str, progress: Callable[[int, int], None]) -> Path:
    """Compute and store the results of a data set's runs next to them; returns the path of the file.

    Args:
        store: the run store.
        dataset: name of the data set.
        progress: called with the number of steps done and of all.
    Raises:
        BadRequest: if no run of the data set is stored.
    """
    metas = store.metas(dataset)
    if not metas:
        raise BadRequest(f"No run of {dataset} is stored. Train some: python -m trainer curve --dataset {dataset}")
    split = Counter(meta.split_hash for meta in metas).most_common(1)[0][0]
    series = runs_by_series(store, [meta for meta in metas if meta.split_hash == split])
    cells = [runs for all_sizes in series.values() for runs in _by_size(all_sizes).values()]
    cells += [runs for pair in runs_compared(store, dataset, split).values() for runs in pair if runs]
    results: Results = {"intervals": {}, "differences": {}, "curves": {}}
    for done, runs in enumerate(cells):
        progress(done, len(cells))
        results["intervals"] |= intervals_to_store(runs)
    progress(len(cells), len(cells))
    for first, second in contrast_runs(store, [dataset]).values():
        results["differences"] |= difference_to_store(first, second)
    # Pages order series as `runs_by_series` does, and some leave out the runs on all training images.
    named = set(contestants(series).values())
    contest = {name: runs for name, runs in series.items() if name in named}
    for first_by_size, second_by_size in combinations(map(_by_size, contest.values()), 2):
        for size in first_by_size.keys() & second_by_size.keys():
            results["differences"] |= difference_to_store(first_by_size[size], second_by_size[size])
    sized = {name: [run for run in runs if run.meta.train_size is not None] for name, runs in contest.items()}
    for shown in (contest, sized):
        results["curves"] |= curves_to_store({name: runs for name, runs in shown.items() if runs}, METRIC)
    return save_results(next(iter(series.values()))[0].folder.parent, results)


def _by_size(runs: Sequence[Run]) -> dict[int | None, list[Run]]:
    sizes = dict.fromkeys(run.meta.train_size for run in runs)
    return {size: [run for run in runs if run.meta.train_size == size] for size in sizes}
