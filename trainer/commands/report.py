"""`report`: everything that the stored runs of a data set prove at one size, as data; `report_text` puts it into words.

Runs that were made otherwise than the comparison proper (variants), or with leaks allowed, are listed apart and enter
no comparison. Of several splits the one with most runs is reported and the runs of others are counted.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from trainer.flags import names, sizes
from trainer.progress import print_status, progress_bar
from trainer.reporting import sections
from trainer.reporting.external import external_rows
from trainer.reporting.markdown_report import as_markdown
from trainer.reporting.sections import Runs, subgroups


@dataclass(frozen=True)
class ReportSettings:
    """What a report is about.

    Attributes:
        dataset: name.
        size: labelled images per class, None for all there are; empty for the size that most series have.
        models, strategies: to compare; empty for all.
        target: class or finding to judge against the rest, of a task that is not binary; "" for none.
        aim: of the operating points.
        metric: of the learning curves.
        reach: value of it to be reached; None for what the first series has at its largest size.
        level: of the conformal sets.
        suspicious: classes that a screen is to let through to a second stage; empty for no two-stage diagnosis.
    """

    dataset: str
    size: tuple[int | None, ...] = ()
    models: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    target: str = ""
    aim: Aim = field(default_factory=lambda: Aim("sensitivity", prevalence=0.1))
    metric: str = "auroc"
    reach: float | None = None
    level: float = 0.9
    suspicious: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that makes this report again."""
        usual = ReportSettings(self.dataset)
        flags = {
            "size": "" if not self.size else self.size[0] or "full",
            "models": ",".join(self.models),
            "strategies": ",".join(self.strategies),
            "target": self.target,
            "metric": "" if self.metric == usual.metric else self.metric,
            "reach": "" if self.reach is None else self.reach,
            "suspicious": ",".join(self.suspicious),
            "level": "" if self.level == usual.level else self.level,
        }
        for name in ("rule", "sensitivity", "ratio", "prevalence"):
            value = getattr(self.aim, name)
            flags[name] = "" if value == getattr(usual.aim, name) else value
        stated = "".join(f" --{name} {value}" for name, value in flags.items() if value != "")
        return f"python -m trainer report --dataset {self.dataset}{stated}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--dataset", default="kermany")
    parser.add_argument("--size", type=sizes, default=None, help="images per class (default: the largest most have)")
    parser.add_argument("--models", type=names, default=None, help="joined by commas (default: all)")
    parser.add_argument("--strategies", type=names, default=None, help="joined by commas (default: all)")
    parser.add_argument("--target", help="class or finding to judge against the rest, of a task that is not binary")
    parser.add_argument("--rule", choices=tuple(RULES), default="sensitivity", help="what thresholds are fitted for")
    parser.add_argument("--sensitivity", type=float, default=0.95, help="wanted sensitivity (default: 0.95)")
    parser.add_argument("--ratio", type=float, default=1.0, help="false alarms that one missed case outweighs")
    parser.add_argument("--prevalence", type=float, default=0.1, help="where it is to be used (default: 0.1)")
    parser.add_argument("--metric", default="auroc", help="of the learning curves (default: auroc)")
    parser.add_argument("--reach", type=float, default=None, help="value that the curves are to reach")
    parser.add_argument("--level", type=float, default=0.9, help="of the conformal sets (default: 0.9)")
    parser.add_argument("--suspicious", type=names, help="classes that a screen lets through to a second stage")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it as Markdown")
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`report`."""
    if arguments.size and len(arguments.size) > 1:
        raise BadRequest(f"A report is about one size, but {len(arguments.size)} were asked for.")
    asked = ReportSettings(
        arguments.dataset,
        tuple(arguments.size or ()),
        tuple(arguments.models or ()),
        tuple(arguments.strategies or ()),
        arguments.target or "",
        Aim(arguments.rule, arguments.sensitivity, arguments.ratio, arguments.prevalence),
        METRICS[arguments.metric].name,
        arguments.reach,
        arguments.level,
        tuple(arguments.suspicious or ()),
    )
    store = open_store()
    for place, why in store.problems.items():
        print_status(f"left out: {place}: {why}")
    content = report_on(store, asked)
    if arguments.write:
        write_atomically(arguments.write, as_markdown(content).encode())
        print_status(f"{arguments.write}: written")
    elif arguments.json:
        print(json.dumps(content))
    else:
        print(as_markdown(content), end="")
    return 0


def report_on(store: Store, asked: ReportSettings) -> dict[str, Any]:
    """The report as data: numbers, texts, lists and mappings only; what is undefined is None.

    Raises:
        BadRequest: if no run of the data set, or of the size, is stored, the target is not one of its classes, or the
            level cannot be had.
    """
    required_patients(asked.level)
    metas = [
        meta
        for meta in store.metas(asked.dataset)
        if meta.model in (asked.models or (meta.model,)) and meta.strategy in (asked.strategies or (meta.strategy,))
    ]
    if not metas:
        raise BadRequest(f"No such run of {asked.dataset} is stored. Make some: python -m trainer curve --dataset ...")
    proper = [meta for meta in metas if not meta.variant and not meta.leaks]
    split = Counter(meta.split_hash for meta in proper or metas).most_common(1)[0][0]
    here = [meta for meta in metas if meta.split_hash == split]
    proper = [meta for meta in proper if meta.split_hash == split]
    stored_series = runs_by_series(store, proper)
    every = {key: stored_series[key] for key in comparison_proper(stored_series)}
    size = asked.size[0] if asked.size else _usual_size(proper or here)
    series = {key: chosen for key, runs in every.items() if (chosen := [r for r in runs if r[1].train_size == size])}
    if proper and not series:
        raise BadRequest(f"No run of {asked.dataset} with {size or 'all'} images per class is stored.")
    target = target_named(here[0], asked.target) if asked.target else None
    _measure(every, target)
    content = {
        "about": _about(metas, here, [run for runs in series.values() for run in runs], size, asked, target),
        "families": [sections.family(key, runs, target) for key, runs in series.items()],
        "external": external_rows(series),
        "comparisons": sections.comparisons(series, target),
        "by_class": sections.by_class(series) if here[0].positive is None and target is None else [],
        "subgroups": subgroups(series, target),
        "operating": sections.operating(series, asked.aim, target),
        "calibration": sections.calibration(series, target),
        "conformal": sections.conformal(series, asked.level, target),
        "selective": sections.selective(series, target),
        "two_stage": sections.two_stage(
            series,
            _screens(store, here[0], size) if asked.suspicious else {},
            tuple(target_named(here[0], label) for label in asked.suspicious),
            asked.aim.sensitivity,
        ),
        "curves": sections.curves(every, asked.metric, asked.reach, size, target),
        "shortcuts": [asdict(one) | {"words": one.sentence} for one in shortcuts_of(store, asked.dataset, split)],
        "apart": [_apart(meta) for meta in metas if meta.variant or meta.leaks],
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def _screens(store: Store, of: RunMeta, size: int | None) -> dict[str, Runs]:
    """Binary runs on the images of the same set, which may screen for runs of several classes."""
    every, confirmers = stage_candidates(store, replace(of, train_size=size))
    return {dataset: series for dataset, series in every.items() if dataset not in confirmers}


def _measure(every: Runs, target: int | None) -> None:
    """Measures what the cache does not hold yet, with a bar where that takes time."""
    with progress_bar("measuring on drawn test images", "series") as show:
        for done, runs in enumerate(every.values()):
            show(done, len(every))
            resampled_runs(runs, target)
        if every:
            show(len(every), len(every))


def _usual_size(metas: Sequence[RunMeta]) -> int | None:
    """The size that most series have; of several the largest."""
    counts = Counter(size for group in by_series(metas).values() for size in {meta.train_size for meta in group})
    return max(counts, key=lambda size: (counts[size], size or math.inf))


def _about(
    metas: Sequence[RunMeta],
    here: Sequence[RunMeta],
    runs: Sequence[Run],
    size: int | None,
    asked: ReportSettings,
    target: int | None,
) -> dict[str, Any]:
    first = here[0]
    counts = resampled_runs(runs[:1], target)[0] if runs else None
    return {
        "command": asked.command, "dataset": first.dataset, "title": first.dataset_title, "task": first.task,
        "labels": first.labels, "positive": None if first.positive is None else first.labels[first.positive],
        "target": asked.target, "synthetic": first.synthetic, "size": size, "split_hash": first.split_hash,
        "fingerprint": first.fingerprint, "images": counts.n if counts else 0, "groups": counts.groups if counts else 0,
        "notes": first.notes, "other_splits": len(metas) - len(here),
        "short": sorted({label for _, meta in runs for label in meta.short}),
        "subsets": {str(meta.seed): meta.subset_hash for _, meta in runs},
    }  # fmt: skip


def _apart(meta: RunMeta) -> dict[str, Any]:
    names = ("run", "model", "strategy", "variant", "leaks", "train_size", "seed", "metrics")
    return {name: getattr(meta, name) for name in names}


def _plain(value: Any) -> Any:
    """Numbers, texts, lists and mappings only; NaN and infinity, which JSON does not know, become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
