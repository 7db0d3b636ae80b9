"""`report`: all results of a data set's stored runs at one size, as JSON or as Markdown.

Variants, and runs with leaks allowed, are listed separately and enter no comparison. If there are several splits, the
one with the most runs is reported, and the runs of the others are counted.
"""

import argparse
import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core.analysis.precomputed_results import store_results
from core.analysis.shortcuts import shortcuts_of
from core.analysis.two_stage import stage_candidates
from core.errors import BadRequest
from core.files import write_atomically
from core.metrics import METRICS
from core.metrics.conformal import required_patients
from core.metrics.thresholds import RULES, Aim
from core.runs import RunMeta, Store, open_store
from core.runs.scores import target_named
from core.runs.series import Run, by_series, comparison_proper, resampled_runs, runs_by_series
from trainer.commands import parser_of
from trainer.flags import names, sizes
from trainer.progress import print_status, progress_bar
from trainer.reporting import sections
from trainer.reporting.external import external_rows
from trainer.reporting.markdown_report import as_markdown
from trainer.reporting.sections import Runs, subgroups

_APART = ("run", "model", "strategy", "variant", "leaks", "train_size", "seed", "metrics")
_NOT_IN_COMMAND = ("command", "execute", "dataset", "json", "write", "store_results")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--dataset", default="kermany")
    parser.add_argument("--size", type=sizes, help="images per class (default: the largest that most series have)")
    parser.add_argument("--models", type=names, help="joined by commas (default: all)")
    parser.add_argument("--strategies", type=names, help="joined by commas (default: all)")
    parser.add_argument(
        "--target", default="", help="class or finding to evaluate against the rest, if the task is not binary"
    )
    parser.add_argument(
        "--rule", choices=tuple(RULES), default="sensitivity", help="rule by which thresholds are fitted"
    )
    parser.add_argument("--sensitivity", type=float, default=0.95, help="target sensitivity (default: 0.95)")
    parser.add_argument("--ratio", type=float, default=1.0, help="false alarms that one missed case outweighs")
    parser.add_argument("--prevalence", type=float, default=0.1, help="prevalence in use (default: 0.1)")
    parser.add_argument("--metric", default="auroc", help="metric of the learning curves (default: auroc)")
    parser.add_argument("--reach", type=float, help="value of the metric that the curves should reach")
    parser.add_argument("--level", type=float, default=0.9, help="coverage of the conformal sets (default: 0.9)")
    parser.add_argument("--suspicious", type=names, default=[], help="classes that a screen passes to a second stage")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it as Markdown")
    parser.add_argument(
        "--store-results", action="store_true",
        help="instead of a report, store the intervals and curves that pages show first next to the runs, so that a "
        "first visit computes none of them",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Print or write the report."""
    if arguments.size and len(arguments.size) > 1:
        raise BadRequest(f"A report is about one size, but {len(arguments.size)} were given.")
    store = open_store()
    for name, why in store.problems.items():
        print_status(f"left out: {name}: {why}")
    if arguments.store_results:
        with progress_bar("evaluating resampled test images", "cell") as show:
            path = store_results(store, arguments.dataset, show)
        print_status(f"{path}: written, {path.stat().st_size / 1e6:.2f} MB")
        return 0
    content = report_on(store, arguments)
    if arguments.write:
        write_atomically(arguments.write, as_markdown(content).encode())
        print_status(f"{arguments.write}: written")
    elif arguments.json:
        print(json.dumps(content))
    else:
        print(as_markdown(content), end="")
    return 0


def report_on(store: Store, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the report as data: numbers, texts, lists and mappings only; undefined values are None.

    Raises:
        BadRequest: if no run of the data set, or of the size, is stored, the target is not one of its classes, or the
            level is impossible.
        UnknownName: if there is no such metric.
    """
    # Check the flags before anything slow
    required_patients(arguments.level)
    metric = METRICS[arguments.metric].name
    aim = Aim(arguments.rule, arguments.sensitivity, arguments.ratio, arguments.prevalence)

    # Compare runs of one split: the most frequent one among runs without variants and leaks
    metas = [
        meta
        for meta in store.metas(arguments.dataset)
        if meta.model in (arguments.models or (meta.model,))
        and meta.strategy in (arguments.strategies or (meta.strategy,))
    ]
    if not metas:
        raise BadRequest(
            f"No such run of {arguments.dataset} is stored. Train some: python -m trainer curve --dataset ..."
        )
    proper = [meta for meta in metas if not meta.variant and not meta.leaks]
    split = Counter(meta.split_hash for meta in proper or metas).most_common(1)[0][0]
    same_split = [meta for meta in metas if meta.split_hash == split]
    proper = [meta for meta in proper if meta.split_hash == split]

    # Learning curves cover all sizes, comparisons one
    stored_series = runs_by_series(store, proper)
    all_sizes = {key: stored_series[key] for key in comparison_proper(stored_series)}
    size = arguments.size[0] if arguments.size else _most_common_size(proper or same_split)
    of_size = {key: [run for run in runs if run.meta.train_size == size] for key, runs in all_sizes.items()}
    series = {key: runs for key, runs in of_size.items() if runs}
    if proper and not series:
        raise BadRequest(f"No run of {arguments.dataset} with {size or 'all'} images per class is stored.")

    # Resample with a progress bar first; the sections then read the cache
    target = target_named(same_split[0], arguments.target) if arguments.target else None
    one_task = {} if same_split[0].multilabel and target is None else series
    _measure(all_sizes, target)

    content = {
        "about": _about(metas, same_split, [run for runs in series.values() for run in runs], size, arguments, target),
        "families": [sections.family(key, runs, target) for key, runs in series.items()],
        "external": external_rows(series),
        "comparisons": sections.comparisons(series, target),
        "by_class": sections.by_class(series) if same_split[0].positive is None and target is None else [],
        "subgroups": subgroups(series, target),
        "operating": sections.operating(series, aim, target),
        "calibration": sections.calibration(one_task, target),
        "conformal": sections.conformal(series, arguments.level, target),
        "selective": sections.selective(one_task, target),
        "two_stage": sections.two_stage(
            series,
            _screens(store, same_split[0], size) if arguments.suspicious else {},
            tuple(target_named(same_split[0], label) for label in arguments.suspicious),
            aim.sensitivity,
        ),
        "curves": sections.curves(all_sizes, metric, arguments.reach, size, target),
        "shortcuts": [asdict(row) | {"words": row.sentence} for row in shortcuts_of(store, arguments.dataset, split)],
        "apart": [{name: getattr(meta, name) for name in _APART} for meta in metas if meta.variant or meta.leaks],
    }
    text = json.dumps(content, default=lambda value: value.item())
    return json.loads(text, parse_constant=lambda _: None)  # NaN and infinity, which JSON lacks, become None


def _screens(store: Store, of: RunMeta, size: int | None) -> dict[str, Runs]:
    """Return binary runs on images of the same set, which may screen for runs of several classes."""
    screeners, confirmers = stage_candidates(store, replace(of, train_size=size))
    return {dataset: series for dataset, series in screeners.items() if dataset not in confirmers}


def _measure(series: Runs, target: int | None) -> None:
    """Compute the resampled metrics that are not cached, with a progress bar."""
    with progress_bar("evaluating resampled test images", "series") as show:
        for done, runs in enumerate(series.values()):
            show(done, len(series))
            resampled_runs(runs, target)
        if series:
            show(len(series), len(series))


def _most_common_size(metas: Sequence[RunMeta]) -> int | None:
    """Return the size that most series have; if several do, the largest."""
    counts = Counter(size for group in by_series(metas).values() for size in {meta.train_size for meta in group})
    return max(counts, key=lambda size: (counts[size], size or math.inf))


def _about(
    metas: Sequence[RunMeta],
    same_split: Sequence[RunMeta],
    runs: Sequence[Run],
    size: int | None,
    arguments: argparse.Namespace,
    target: int | None,
) -> dict[str, Any]:
    first = same_split[0]
    counts = resampled_runs(runs[:1], target)[0] if runs else None
    return {
        "command": _command(arguments), "dataset": first.dataset, "title": first.dataset_title, "task": first.task,
        "labels": first.labels, "positive": None if first.positive is None else first.labels[first.positive],
        "target": arguments.target, "synthetic": first.synthetic, "size": size, "split_hash": first.split_hash,
        "fingerprint": first.fingerprint, "images": counts.n if counts else 0, "groups": counts.groups if counts else 0,
        "notes": first.notes, "other_splits": len(metas) - len(same_split),
        "short": sorted({label for _, meta in runs for label in meta.short}),
        "subsets": {str(meta.seed): meta.subset_hash for _, meta in runs},
    }  # fmt: skip


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that reproduces this report."""
    parser, flags = parser_of("report"), []
    for name, value in vars(arguments).items():
        if name not in _NOT_IN_COMMAND and value != parser.get_default(name):
            values = value if isinstance(value, list) else [value]
            flags += [f"--{name}", ",".join("full" if part is None else str(part) for part in values)]
    return shlex.join(["python", "-m", "trainer", "report", "--dataset", arguments.dataset, *flags])
