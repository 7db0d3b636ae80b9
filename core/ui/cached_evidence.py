"""What pages keep of `core.evidence`, `core.operated` and `core.stages`: by the content of runs, never by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import streamlit as st

from core import draws, evidence, operated, stages
from core.cases.verdict import Stages, choose_stages
from core.checkpoints import read_history
from core.draws import drawn_run
from core.errors import BadRequest
from core.evidence import Judged, SeedTests
from core.metrics import METRICS, Estimate, measure
from core.metrics.comparisons import Difference
from core.metrics.conformal import Conformal, Coverage
from core.metrics.curves import Fit
from core.metrics.operating import DecisionCurve
from core.metrics.reliability import Bin, ChanceError, chance_error, reliability
from core.metrics.selective import RiskCurve
from core.metrics.thresholds import Aim, OperatingPoint
from core.metrics.two_stage import TwoStage
from core.operated import Moved, Prepared, Rates
from core.results import Run, Series, class_report, load_scores
from core.storage import sha256_of
from core.ui.cached import key_of
from core.ui.waiting import bar

Runs = Mapping[Series, Sequence[Run]]
STAGE_DRAWS = 500


def _key_of_all(series: Runs) -> str:
    return sha256_of(part for name, runs in series.items() for part in (*name, key_of(runs)))


def measured(runs: Sequence[Run], finding: int | None) -> None:
    """Measures runs on drawn test images where that was not done yet, with a bar."""
    with bar("Measuring on drawn test images") as show:
        for done, (folder, meta) in enumerate(runs):
            show(done, len(runs))
            drawn_run(folder, meta, finding)


def is_measured(series: Runs, finding: int | None) -> bool:
    """Whether all these runs were measured on drawn test images before."""
    return all(draws.is_measured(folder, meta, finding) for runs in series.values() for folder, meta in runs)


def differences(
    series: Runs, reference: Series, finding: int | None
) -> tuple[dict[Series, dict[str, Difference]], dict[Series, str], int]:
    """Every other series minus the reference; why some are not compared; and over how many pairs Holm corrects.

    These are all pairs of the series, as in a report: a verdict must not depend on which of them is the reference.
    """
    found, refused = _differences(_key_of_all(series), series, finding)
    turned: dict[Series, dict[str, Difference]] = {}
    for name in series:
        if (name, reference) in found:
            turned[name] = found[name, reference]
        elif (reference, name) in found:
            turned[name] = {metric: one.reversed() for metric, one in found[reference, name].items()}
    return (
        turned,
        {a if b == reference else b: why for (a, b), why in refused.items() if reference in (a, b)},
        len(found),
    )


@st.cache_data(max_entries=64, show_spinner=False)
def _differences(
    key: str, _series: Runs, finding: int | None
) -> tuple[dict[tuple[Series, Series], dict[str, Difference]], dict[tuple[Series, Series], str]]:
    pairs, refused = [], {}
    for pair in combinations(_series, 2):
        try:
            evidence.paired(_series[pair[0]], _series[pair[1]])
            pairs.append(pair)
        except BadRequest as error:
            refused[pair] = str(error)
    measured([run for runs in _series.values() for run in runs], finding)
    return evidence.compare_all(_series, finding=finding, pairs=pairs), refused


def seed_tests(runs: Sequence[Run], others: Sequence[Run], finding: int | None) -> list[SeedTests]:
    """DeLong and McNemar, seed by seed."""
    return _seed_tests(key_of(runs), key_of(others), runs, others, finding)


@st.cache_data(max_entries=128, show_spinner=False)
def _seed_tests(
    key: str, other: str, _runs: Sequence[Run], _others: Sequence[Run], finding: int | None
) -> list[SeedTests]:
    return evidence.seed_tests(_runs, _others, finding)


def values(runs: Sequence[Run], metric: str, finding: int | None) -> list[float]:
    """A metric of each run; of one finding, or as its record says."""
    if finding is None:
        return [meta.metrics[metric] for _, meta in runs]
    return _values(key_of(runs), runs, metric, finding)


@st.cache_data(max_entries=512, show_spinner=False)
def _values(key: str, _runs: Sequence[Run], metric: str, finding: int) -> list[float]:
    return [measure(evidence.judged(run, target=finding).scores, metric)[metric] for run in _runs]


def prepared(runs: Sequence[Run], target: int | None) -> Prepared:
    """A series read and its test images drawn."""
    return _prepared(key_of(runs), runs, target)


@st.cache_resource(max_entries=32, show_spinner="Drawing test images")
def _prepared(key: str, _runs: Sequence[Run], target: int | None) -> Prepared:
    return operated.prepare(_runs, target)


def points(runs: Sequence[Run], target: int | None, aim: Aim) -> list[OperatingPoint]:
    """The operating point of each run; what an aim does not use is no part of the question."""
    usual = Aim(aim.rule)
    asked = replace(
        usual,
        sensitivity=aim.sensitivity if aim.rule == "sensitivity" else usual.sensitivity,
        ratio=aim.ratio if aim.rule == "cost" else usual.ratio,
        prevalence=aim.prevalence if aim.rule == "cost" else usual.prevalence,
    )
    return _points(key_of(runs), prepared(runs, target), target, asked)


@st.cache_data(max_entries=512, show_spinner=False)
def _points(key: str, _prepared: Prepared, target: int | None, aim: Aim) -> list[OperatingPoint]:
    return operated.points_of(_prepared, aim)


def moved(
    runs: Sequence[Run], target: int | None, fitted: tuple[float, ...], shift: float, prevalence: float, banded: bool
) -> Moved:
    """A series at shifted thresholds and a prevalence."""
    key, ready = key_of(runs), prepared(runs, target)
    curve = _benefit(key, ready, target, prevalence, banded)
    return _moved(key, ready, target, fitted, shift, prevalence, curve, banded)


@st.cache_data(max_entries=128, show_spinner=False)
def _benefit(key: str, _prepared: Prepared, target: int | None, prevalence: float, banded: bool) -> DecisionCurve:
    return operated.benefit_at(_prepared, prevalence, banded)


@st.cache_data(max_entries=128, show_spinner=False)
def _moved(
    key: str,
    _prepared: Prepared,
    target: int | None,
    fitted: tuple[float, ...],
    shift: float,
    prevalence: float,
    _curve: DecisionCurve,
    banded: bool,
) -> Moved:
    return operated.move(_prepared, fitted, shift, prevalence, _curve)


def risk(runs: Sequence[Run], target: int | None, thresholds: tuple[float, ...], banded: bool) -> RiskCurve:
    """Risk against coverage at thresholds."""
    return _risk(key_of(runs), prepared(runs, target), target, thresholds, banded)


@st.cache_data(max_entries=512, show_spinner=False)
def _risk(key: str, _prepared: Prepared, target: int | None, thresholds: tuple[float, ...], banded: bool) -> RiskCurve:
    return operated.risk_at(_prepared, thresholds, banded)


def rates(runs: Sequence[Run], target: int | None) -> tuple[Rates, list[Rates]]:
    """Sensitivity against false alarms: mean over seeds, and each seed."""
    return _rates(key_of(runs), prepared(runs, target), target)


@st.cache_data(max_entries=128, show_spinner=False)
def _rates(key: str, _prepared: Prepared, target: int | None) -> tuple[Rates, list[Rates]]:
    return operated.rates_of(_prepared)


def diagram(run: Run, target: int | None) -> tuple[list[Bin], ChanceError]:
    """The reliability diagram of one run, and the calibration error that chance alone shows."""
    return _diagram(key_of([run]), prepared([run], target), target)


@st.cache_data(max_entries=256, show_spinner=False)
def _diagram(key: str, _prepared: Prepared, target: int | None) -> tuple[list[Bin], ChanceError]:
    return reliability(_prepared.tests[0]), chance_error(_prepared.tests[0])


def judged(run: Run, target: int | None = None) -> Judged:
    """A run's test predictions with the names of its images."""
    return _judged(key_of([run]), run, target)


@st.cache_data(max_entries=256, show_spinner=False)
def _judged(key: str, _run: Run, target: int | None) -> Judged:
    return evidence.judged(_run, target=target)


def conformal(
    runs: Sequence[Run], level: float, target: int | None
) -> tuple[list[tuple[Conformal, Coverage]], list[Estimate]]:
    """Conformal sets of each run, and their mean coverage of each class."""
    return _conformal(key_of(runs), runs, level, target)


@st.cache_data(max_entries=128, show_spinner=False)
def _conformal(
    key: str, _runs: Sequence[Run], level: float, target: int | None
) -> tuple[list[tuple[Conformal, Coverage]], list[Estimate]]:
    return evidence.conformal_series(_runs, level, target)


def history(run: Run) -> list[dict[str, float | None]]:
    """A run's training curves."""
    return _history(key_of([run]), run)


@st.cache_data(max_entries=512, show_spinner=False)
def _history(key: str, _run: Run) -> list[dict[str, float | None]]:
    return read_history(_run[0])


def report(run: Run) -> list[dict[str, float | str]]:
    """The classification report of a run."""
    return _report(key_of([run]), run)


@st.cache_data(max_entries=512, show_spinner=False)
def _report(key: str, _run: Run) -> list[dict[str, float | str]]:
    return class_report(load_scores(*_run), _run[1].labels)


def curves(series: Runs, metric: str, finding: int | None) -> dict[Series, Fit]:
    """The fitted learning curves of series with three sizes or more."""
    return _curves(_key_of_all(series), series, METRICS[metric].name, finding)


@st.cache_data(max_entries=32, show_spinner=False)
def _curves(key: str, _series: Runs, metric: str, finding: int | None) -> dict[Series, Fit]:
    measured([run for runs in _series.values() for run in runs], finding)
    return evidence.learning_curves(_series, metric, finding)[1]


def best_single(series: Runs, suspicious: tuple[int, ...]) -> Series:
    """The series to compare two stages with, chosen on held-out images."""
    return _best_single(_key_of_all(series), series, suspicious)


@st.cache_data(max_entries=64, show_spinner=False)
def _best_single(key: str, _series: Runs, suspicious: tuple[int, ...]) -> Series:
    return stages.best_single(_series, suspicious)


def chosen_stages(series: Mapping[str, Sequence[Run]], sensitivity: float) -> Stages:
    """Both stages of the Diagnose page: of each family the run that answers, then its other seeds."""
    keys = tuple((family, key_of(runs)) for family, runs in series.items())
    return _chosen_stages(keys, series, sensitivity)


@st.cache_data(max_entries=64, show_spinner="Joining the stages")
def _chosen_stages(
    keys: tuple[tuple[str, str], ...], _series: Mapping[str, Sequence[Run]], sensitivity: float
) -> Stages:
    return choose_stages(_series, sensitivity, STAGE_DRAWS)


def two_stage(
    screens: Sequence[Run], confirmers: Sequence[Run], singles: Sequence[Run], suspicious: tuple[int, ...], aim: Aim
) -> TwoStage:
    """Both stages joined, against one model alone."""
    keys = tuple(map(key_of, (screens, confirmers, singles)))
    return _two_stage(keys, screens, confirmers, singles, suspicious, aim)


@st.cache_data(max_entries=64, show_spinner="Joining the stages")
def _two_stage(
    keys: tuple[str, ...],
    _screens: Sequence[Run],
    _confirmers: Sequence[Run],
    _singles: Sequence[Run],
    suspicious: tuple[int, ...],
    aim: Aim,
) -> TwoStage:
    return stages.joint(_screens, _confirmers, _singles, suspicious, aim, STAGE_DRAWS)
