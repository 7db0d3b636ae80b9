"""Caches between reruns: runs, predictors, data sets, comparisons and operating points.

Keys identify content: the whole records of runs (`hash_funcs=BY_RECORD`), or the stamp of a listing.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import streamlit as st

from core.analysis import comparison, external, operating_point, two_stage
from core.analysis.contest import default_networks
from core.analysis.operating_point import RocCurve, ShiftedSeries
from core.data import own_images
from core.data.dataset import Dataset, load_dataset, scan
from core.data.datasets.custom import custom_dataset
from core.data.duplicates import Copies, find_copies
from core.data.listing import Listing
from core.data.overlap import Source, copies_by_source
from core.data.specs import DatasetSpec, find_dataset, find_folder, list_images
from core.inference.analyze import Network
from core.inference.image_check import FILE as IMAGE_CHECK_FILE
from core.inference.image_check import ImageChecker, open_image_checker
from core.inference.predictor import Predictor
from core.inference.two_stage import choose_stages
from core.inference.uncertainty import siblings
from core.jobs.catalog import read_catalog
from core.jobs.own_study import delete_expired
from core.jobs.queue import Queue
from core.metrics import measure
from core.metrics.comparisons import Difference
from core.metrics.learning_curves import Fit
from core.metrics.operating_point import DecisionCurve
from core.metrics.reliability import Bin, reliability
from core.metrics.selective import RiskCurve
from core.metrics.thresholds import Aim, OperatingPoint
from core.models import MODELS
from core.models.summary import Architecture, architecture
from core.paths import runs_folder
from core.runs import Run, RunMeta, Store, open_store, read_history
from core.runs.metric_cache import is_cached
from core.runs.scores import load_part
from core.runs.selection import candidates
from core.runs.series import Series, class_report, estimate, has_intervals, resampled_runs, summarize
from core.ui import login
from core.ui.progress import bar

Runs = Mapping[Series, Sequence[Run]]
BY_RECORD: dict[str | type[Any], Callable[[Any], Any]] = {Run: attrgetter("meta.digest")}
STAGE_RESAMPLES = 500


def _used_by_rule(aim: Aim) -> tuple[object, ...]:
    """Return the values of an aim that its rule uses."""
    used = {"sensitivity": (aim.sensitivity,), "cost": (aim.ratio, aim.prevalence)}
    return aim.rule, *used.get(aim.rule, ())


def store() -> Store:
    """Return the run store; it is read again only if a file of a run was added, removed or changed.

    Runs on images that another visitor stored are left out.
    """
    root = runs_folder()
    return _without(_sets_of_others(), _store(str(root), _stamp(root)))


def _without(hidden: set[str], opened: Store) -> Store:
    """Return a store without the runs on some data sets."""
    if not hidden:
        return opened
    runs, failed = (
        {folder: meta for folder, meta in rows.items() if meta.dataset not in hidden}
        for rows in (opened.runs, opened.failed)
    )
    problems = {name: why for name, why in opened.problems.items() if name.partition("/")[0] not in hidden}
    return replace(opened, runs=runs, failed=failed, problems=problems)


def _sets_of_others() -> set[str]:
    """Return the names of the data sets of images that other visitors stored."""
    return {own.name for own in own_images.sets_of_others(login.owner())}


@st.cache_resource(max_entries=2, show_spinner="Reading the run store")
def _store(root: str, stamp: str) -> Store:
    return open_store(Path(root))


def store_and_networks() -> tuple[Store, dict[str, dict[str, list[Network]]]]:
    """Return the run store and, for each data set, the networks that can predict, by family; the default comes first.

    Networks are shared by all visitors.
    """
    root, hidden = runs_folder(), _sets_of_others()
    stamp = _stamp(root)  # once: it looks at every file of the store
    networks = {name: rows for name, rows in _networks(str(root), stamp).items() if name not in hidden}
    return _without(hidden, _store(str(root), stamp)), networks


@st.cache_resource(max_entries=2, show_spinner=False)
def _networks(root: str, stamp: str) -> dict[str, dict[str, list[Network]]]:
    opened = _store(root, stamp)
    networks: dict[str, dict[str, list[Network]]] = {}
    for name in dict.fromkeys(meta.dataset for meta in opened.metas()):
        for family, default in default_networks(opened, name).items():
            runs = [default, *(run for run in candidates(opened, name, family) if run.folder != default.folder)]
            by_family = networks.setdefault(name, {})
            by_family[family] = [Network([run, *siblings(opened, run.meta)], predictor) for run in runs]
    return networks


def _stamp(root: Path) -> str:
    """Return the paths and modification times of all files of runs; fast, because every rerun calls it."""
    lines = []
    for folder in _visible(root):
        for run in _visible(folder.path):
            for file in _visible(run.path):
                with suppress(FileNotFoundError):
                    lines.append(f"{file.path}|{file.stat().st_mtime_ns}")
    return "\n".join(sorted(lines))


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder except hidden ones; none for a file, or for a run that is being moved."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


@st.cache_resource(max_entries=18, show_spinner="Loading the model", hash_funcs=BY_RECORD)
def predictor(run: Run) -> Predictor:
    """Return the predictor of a run, shared by all visitors."""
    return Predictor(run.folder)


def image_checker(dataset: str, metas: Iterable[RunMeta]) -> ImageChecker | None:
    """Return the image check of a data set, shared by all visitors; None if there is none.

    Args:
        dataset: name.
        metas: the runs that predict.

    Raises:
        CorruptRun: if the image check is damaged, or was fitted on other images than these runs.
        WeightsUnavailable: if the weights of its encoder are not available here.
    """
    path = runs_folder() / dataset / IMAGE_CHECK_FILE
    try:
        status = path.stat()
    except OSError:
        return None
    return _image_checker(
        str(path.parent), status.st_size, status.st_mtime_ns, tuple(sorted({meta.fingerprint for meta in metas}))
    )  # fmt: skip


@st.cache_resource(max_entries=4, show_spinner="Loading the image check")
def _image_checker(folder: str, size: int, changed: int, fingerprints: tuple[str, ...]) -> ImageChecker | None:
    return open_image_checker(Path(folder), fingerprints)


# Metrics of the runs of one series and size, with intervals; `names` and `finding` are given by name.
estimates = st.cache_data(max_entries=256, show_spinner="Computing intervals", hash_funcs=BY_RECORD)(estimate)
summaries = st.cache_data(max_entries=256, show_spinner="Computing intervals", hash_funcs=BY_RECORD)(summarize)


@st.cache_data(max_entries=32, show_spinner="Reading the architecture")
def architecture_of(model: str, classes: int) -> Architecture:
    """Return the architecture of a model with a head for a number of classes."""
    return architecture(MODELS[model], classes)


def listing(name: str) -> Listing:
    """Return the listing of a data set.

    Its folder is read again when the files directly in it change, or after `forget_data`.
    """
    folder = find_folder(find_dataset(name)) or Path()
    paths = (folder, *folder.iterdir()) if folder.name else ()
    stamp = "\n".join(sorted(f"{path.name}|{path.stat().st_mtime_ns}" for path in paths))
    return _listing(name, str(folder), stamp)


@st.cache_resource(max_entries=4, show_spinner="Reading the data set's folder")
def _listing(name: str, folder: str, stamp: str) -> Listing:
    return list_images(find_dataset(name))


@st.cache_resource(max_entries=4, show_spinner=False)
def own_dataset(folder: Path, stamp: str) -> Dataset:
    """Return the images of a folder, read, audited and split, with a progress bar; the stamp is its listing's.

    Raises:
        LowshotError: if there are too few images to split them.
    """
    with bar("Reading your images") as progress:
        return load_dataset(custom_dataset(folder), progress)


@st.cache_resource(show_spinner=False, ttl=3600)
def delete_expired_images() -> None:
    """Delete expired own images: when the server starts, then every hour."""
    delete_expired(Queue())


def own_images_spec(path: Path) -> DatasetSpec:
    """Return the specification of own images; it is read again if the folder or the CSV file changes."""
    return _own(str(path), path.stat().st_mtime_ns)


@st.cache_resource(max_entries=8, show_spinner="Reading your images")
def _own(path: str, changed: int) -> DatasetSpec:
    return custom_dataset(Path(path))


@st.cache_data(
    ttl=60, max_entries=8, show_spinner="Reading your images", hash_funcs={DatasetSpec: lambda spec: spec.name}
)
def image_count(spec: DatasetSpec) -> int:
    """Return the number of images of a data set, as it was within the last minute."""
    return len(list_images(spec))


catalog = st.cache_resource(show_spinner="Loading the training options")(read_catalog)


@st.cache_resource(max_entries=4, show_spinner=False)
def positions(name: str, stamp: str) -> dict[str, int]:
    """Return the position of each image in a data set's listing, by image name; the stamp is the listing's."""
    return {image: position for position, image in enumerate(listing(name).ids.tolist())}


@st.cache_resource(max_entries=2, show_spinner=False)
def dataset(name: str, stamp: str) -> Dataset:
    """Return a data set, read, audited and split, with a progress bar; the stamp is its listing's."""
    spec = find_dataset(name)
    with bar(f"{spec.title}: reading") as progress:
        return load_dataset(spec, progress)


@st.cache_data(max_entries=4, show_spinner=False)
def copies(name: str, stamp: str) -> Copies:
    """Return the pairs of copies within a data set; the audit stores its own results."""
    return find_copies(scan(find_dataset(name))[1])


@st.cache_data(max_entries=8, show_spinner=False)
def sources(name: str, stamp: str) -> list[Source]:
    """Return the copies that a data set shares with others, with progress bars during the search."""
    return copies_by_source(find_dataset(name), bar)


def forget_data() -> None:
    """Clear the caches of data sets, so that they are read again."""
    for cached in (_listing, positions, dataset, copies, sources):
        cached.clear()


def are_evaluated(groups: Iterable[Sequence[Run]], finding: int | None) -> bool:
    """Return whether the intervals of all these series at one size are available without resampling test images."""
    return all(has_intervals(runs, finding) for runs in groups)


def evaluate_runs(groups: Iterable[Sequence[Run]], finding: int | None) -> None:
    """Evaluate runs on resampled test images, with a progress bar, and store the results; skip runs that have them."""
    runs = list(chain.from_iterable(groups))
    with bar("Evaluating on resampled test images") as show:
        for done, run in enumerate(runs):
            show(done, len(runs))
            resampled_runs([run], finding)


def differences(
    series: Runs, reference: Series, finding: int | None
) -> tuple[dict[Series, dict[str, Difference]], dict[Series, str], int]:
    """Return the differences of all other series from a reference.

    Holm's correction covers all pairs of the series, as in a report: a verdict must not depend on the reference.

    Returns:
        The differences (series minus reference) by series and metric, the reasons why some series are not compared,
        and the number of pairs that Holm's correction covers.
    """
    pairs, refused = _pairwise_differences(series, finding)
    from_reference: dict[Series, dict[str, Difference]] = {}
    for name in series:
        if (name, reference) in pairs:
            from_reference[name] = pairs[name, reference]
        elif (reference, name) in pairs:
            from_reference[name] = {metric: row.reversed() for metric, row in pairs[reference, name].items()}
    return (
        from_reference,
        {a if b == reference else b: why for (a, b), why in refused.items() if reference in (a, b)},
        len(pairs),
    )


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs=BY_RECORD)
def _pairwise_differences(
    series: Runs, finding: int | None
) -> tuple[dict[tuple[Series, Series], dict[str, Difference]], dict[tuple[Series, Series], str]]:
    pairs, refused = comparison.comparable_pairs(series)
    new = [pair for pair in pairs if not comparison.has_difference(series[pair[0]], series[pair[1]], finding)]
    evaluate_runs((series[name] for name in series if any(name in pair for pair in new)), finding)
    return comparison.compare_all(series, finding=finding, pairs=pairs), refused


seed_tests = st.cache_data(max_entries=128, show_spinner=False, hash_funcs=BY_RECORD)(comparison.seed_tests)


def values(runs: Sequence[Run], metric: str, finding: int | None) -> list[float]:
    """Return a metric of each run, from its record or, for a single finding, from its predictions."""
    return [run.meta.metrics[metric] for run in runs] if finding is None else _finding_values(runs, metric, finding)


@st.cache_data(max_entries=512, show_spinner=False, hash_funcs=BY_RECORD)
def _finding_values(runs: Sequence[Run], metric: str, finding: int) -> list[float]:
    return [measure(load_part(run, target=finding).scores, metric)[metric] for run in runs]


_resampled_series = st.cache_resource(max_entries=32, show_spinner="Resampling test images", hash_funcs=BY_RECORD)(
    operating_point.resample_series
)


@st.cache_data(max_entries=512, show_spinner=False, hash_funcs={**BY_RECORD, Aim: _used_by_rule})
def points(runs: Sequence[Run], target: int | None, aim: Aim) -> list[OperatingPoint]:
    """Return the operating point of each run."""
    return operating_point.fit_points(_resampled_series(runs, target), aim)


@st.cache_data(max_entries=128, show_spinner=False, hash_funcs=BY_RECORD)
def shifted(
    runs: Sequence[Run], target: int | None, fitted: tuple[float, ...], shift: float, prevalence: float, banded: bool
) -> ShiftedSeries:
    """Return a series' performance at shifted thresholds and a prevalence."""
    curve = _decision_curve(runs, target, prevalence, banded)
    return operating_point.evaluate_at_shift(_resampled_series(runs, target), fitted, shift, prevalence, curve)


@st.cache_data(max_entries=128, show_spinner=False, hash_funcs=BY_RECORD)
def _decision_curve(runs: Sequence[Run], target: int | None, prevalence: float, banded: bool) -> DecisionCurve:
    return operating_point.benefit_at(_resampled_series(runs, target), prevalence, banded)


@st.cache_data(max_entries=512, show_spinner=False, hash_funcs=BY_RECORD)
def risk(runs: Sequence[Run], target: int | None, thresholds: tuple[float, ...], banded: bool) -> RiskCurve:
    """Return the risk-coverage curve of a series at its thresholds."""
    return operating_point.risk_at(_resampled_series(runs, target), thresholds, banded)


@st.cache_data(max_entries=128, show_spinner=False, hash_funcs=BY_RECORD)
def roc_curves(runs: Sequence[Run], target: int | None) -> tuple[RocCurve, list[RocCurve]]:
    """Return sensitivity against false-positive rate: the mean over seeds, and each seed."""
    return operating_point.roc_curves(_resampled_series(runs, target))


@st.cache_data(max_entries=256, show_spinner=False, hash_funcs=BY_RECORD)
def reliability_bins(run: Run, target: int | None) -> list[Bin]:
    """Return the reliability diagram of a run."""
    return reliability(load_part(run, target=target).scores)


run_scores = st.cache_data(max_entries=256, show_spinner=False, hash_funcs=BY_RECORD)(load_part)


@st.cache_data(max_entries=256, show_spinner=False, hash_funcs=BY_RECORD)
def fitting_prevalence(run: Run, target: int | None = None) -> float:
    """Return the share of positives among a run's held-out images, at which its probabilities hold."""
    return float(load_part(run, "validation", target).scores.positives()[1].mean())


conformal = st.cache_data(max_entries=128, show_spinner=False, hash_funcs=BY_RECORD)(comparison.conformal_series)


@st.cache_data(max_entries=512, show_spinner=False, hash_funcs=BY_RECORD)
def history(run: Run) -> list[dict[str, float | None]]:
    """Return the rows of a run's training curves."""
    return read_history(run.folder)


@st.cache_data(max_entries=512, show_spinner=False, hash_funcs=BY_RECORD)
def report(run: Run) -> list[dict[str, float | str]]:
    """Return the classification report of a run."""
    return class_report(load_part(run).scores, run.meta.labels)


def are_fitted(series: Runs, metric: str, finding: int | None) -> bool:
    """Return whether `fitted_curves` resamples no test image."""
    stored = comparison.stored_curves(series, metric, finding) is not None
    return stored or all(is_cached(run, finding) for run in chain.from_iterable(series.values()))


@st.cache_data(max_entries=32, show_spinner=False, hash_funcs=BY_RECORD)
def fitted_curves(series: Runs, metric: str, finding: int | None) -> dict[Series, Fit]:
    """Return the fitted learning curves of the series with at least three sizes."""
    if (stored := comparison.stored_curves(series, metric, finding)) is not None:
        return stored
    evaluate_runs(series.values(), finding)
    return comparison.learning_curves(series, metric, finding)[1]


best_single = st.cache_data(max_entries=64, show_spinner=False, hash_funcs=BY_RECORD)(two_stage.best_single)
chosen_stages = st.cache_data(max_entries=64, show_spinner="Combining the stages", hash_funcs=BY_RECORD)(choose_stages)
two_stage_results = st.cache_data(max_entries=64, show_spinner="Combining the stages", hash_funcs=BY_RECORD)(
    two_stage.joint
)

_EVALUATING = "Evaluating internal test and external test"
external_results = st.cache_data(max_entries=64, show_spinner=_EVALUATING, hash_funcs=BY_RECORD)(external.by_view)
radiologist_reading = st.cache_data(max_entries=64, show_spinner=False, hash_funcs=BY_RECORD)(external.reading)
