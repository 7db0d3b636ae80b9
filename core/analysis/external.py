"""Comparison of a series on its internal test set with an external test set, at the same operating point.

Both figures are of one task: images and probabilities are restricted to the classes that both sets have. The drop is
internal test set minus external set. Patients of the two sets are resampled independently and seeds together, because
each seed is one network evaluated on both sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.errors import BadRequest
from core.metrics import METRICS, Estimate
from core.metrics.bootstrap import bootstrap, interval_text
from core.metrics.comparisons import Difference, paired_difference
from core.runs import ExternalRecord, Run, read_predictions
from core.runs.metric_cache import ResampledRun, resampled_shared
from core.runs.scores import load_shared_classes
from core.runs.series import check_comparable, mean_estimates
from core.types import READER, VIEW

SHOWN = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece")
_READ = ("auroc", "sensitivity", "specificity")


@dataclass(frozen=True)
class ExternalResult:
    """A series at one size on its internal test set and on an external one.

    Attributes:
        name: name of the external set.
        record: record of the first run: title, shared classes, caveat, whether the set is of the encoder's archive.
        view: projection to which the external images are restricted; "" for all.
        own, external: metric -> mean over seeds with its 95% interval over patients, on the own and the external set.
        drop: metric -> internal minus external, with its 95% interval over seeds and the patients of both sets.
        own_images, own_groups, images, groups: number of images and of patients or lesions of the shared classes, on
            the own and the external set.
        seeds: number of runs.
    """

    name: str
    record: ExternalRecord
    view: str
    own: Mapping[str, Estimate]
    external: Mapping[str, Estimate]
    drop: Mapping[str, Difference]
    own_images: int
    own_groups: int
    images: int
    groups: int
    seeds: int

    @property
    def title(self) -> str:
        """Title of the external set, with the view and whether its archive is that of the encoder."""
        marks = [f"{self.view} views only" if self.view else "", "same archive" if self.record.same_archive else ""]
        return f"{self.record.title}{''.join(f' ({mark})' for mark in marks if mark)}"

    def sentence(self, metric: str) -> str:
        """Format the finding as a sentence: both figures, then the drop with its interval."""
        own, external, drop = self.own[metric], self.external[metric], self.drop[metric]
        varies = "seeds and the patients of both sets" if drop.seeds > 1 else "the patients of both sets, one seed"
        return (
            f"{METRICS[metric].title}: {own.value:.3f} on the internal test images, {external.value:.3f} on "
            f"{self.title}, a change of {-drop.effect:+.3f} (95% interval over {varies} "
            f"{interval_text(-drop.high, -drop.low, '+.3f')})."
        )


@dataclass(frozen=True)
class Reading:
    """Evaluation against a radiologist's reading of a few external images; it supports no verdict.

    Attributes:
        images: number of images that were read.
        confirmed: class of the data set -> (number of images that the radiologist confirmed, number that were read).
        figures: metric -> mean over seeds with its 95% interval over patients.
    """

    images: int
    confirmed: Mapping[str, tuple[int, int]]
    figures: Mapping[str, Estimate]


def external_sets(runs: Sequence[Run]) -> list[str]:
    """Return the external sets on which any of the runs was evaluated, in order of first appearance."""
    return list({name: 0 for _, meta in runs for name, record in meta.external.items() if not record.refused})


def refusals(runs: Sequence[Run]) -> dict[str, ExternalRecord]:
    """Return the external sets on which runs were not evaluated, each with the first record that says why."""
    reasons: dict[str, ExternalRecord] = {}
    for _, meta in runs:
        for name, record in meta.external.items():
            if record.refused:
                reasons.setdefault(name, record)
    return reasons


def evaluated(runs: Sequence[Run], name: str) -> list[Run]:
    """Return the runs that were evaluated on an external set."""
    return [run for run in runs if (record := run.meta.external.get(name)) and not record.refused]


def views(run: Run, name: str) -> list[str]:
    """Return the projections of the external images that a run stores; none if they are unknown."""
    known = read_predictions(run.folder, "external", name).facts.get(VIEW, np.array([], str))
    return sorted(set(known.tolist()) - {""})


def compare_with_external(
    runs: Sequence[Run], name: str, names: Sequence[str] | None = None, view: str = ""
) -> ExternalResult:
    """Compare the results of a series on its internal test set and on an external one.

    Args:
        runs: runs of one series at one size, evaluated on both sets.
        name: name of the external set.
        names: metrics; all by default.
        view: projection to which the external images are restricted; "" for all.
    Raises:
        BadRequest: if there is no run, or they were not evaluated on the same images of the same classes.
        CorruptRun: if predictions cannot be read.
    """
    runs = evaluated(runs, name)
    if not runs:
        raise BadRequest(f"None of these runs was evaluated on {name}. Train with --external {name}.")
    check_comparable(runs)
    records = [meta.external[name] for _, meta in runs]
    if len({(record.fingerprint, record.labels) for record in records}) > 1:
        raise BadRequest(
            f"These runs were evaluated on different images or classes of {name} and cannot be combined. "
            f"Evaluate them again: --external {name}."
        )
    own = [resampled_shared(run, name, False) for run in runs]
    external = [resampled_shared(run, name, True, view) for run in runs]
    chosen = tuple(names or METRICS)
    return ExternalResult(
        name=name,
        record=records[0],
        view=view,
        own=mean_estimates(own, chosen),
        external=mean_estimates(external, chosen),
        drop={metric: _drop(own, external, metric) for metric in chosen},
        own_images=own[0].n,
        own_groups=own[0].groups,
        images=external[0].n,
        groups=external[0].groups,
        seeds=len(runs),
    )


def by_view(runs: Sequence[Run], name: str, names: Sequence[str] | None = None) -> list[ExternalResult]:
    """Compare a series with an external set as a whole and, if views are known, view by view."""
    runs = evaluated(runs, name)
    return [compare_with_external(runs, name, names, view) for view in ("", *(views(runs[0], name) if runs else ()))]


def reading(runs: Sequence[Run], name: str) -> Reading | None:
    """Evaluate a series against a radiologist's reading; None unless runs are binary and readings exist.

    Raises:
        CorruptRun: if predictions cannot be read.
    """
    runs = evaluated(runs, name)
    positive = runs[0].meta.positive if runs else None
    if positive is None:
        return None
    stored, meta = read_predictions(runs[0].folder, "external", name), runs[0].meta
    labels = stored.facts.get(READER, np.full(len(stored.ids), ""))
    read = labels != ""
    if not read.any():
        return None
    truth = np.where(labels[read] == "yes", positive, 1 - positive)
    scores = [replace(load_shared_classes(run, name, True).scores.of(read), labels=truth) for run in runs]
    confirmed = {
        label: (int((members & (truth == index)).sum()), int(members.sum()))
        for index, label in enumerate(meta.labels)
        if (members := stored.labels[read] == index).any()
    }
    return Reading(int(read.sum()), confirmed, bootstrap(scores, stored.groups[read], _READ))


def _drop(own: Sequence[ResampledRun], external: Sequence[ResampledRun], metric: str) -> Difference:
    """Subtract resample by resample; one set's resamples are reversed, so that they are independent of the other's."""
    first = np.array([run.values[metric] for run in own])
    second = np.array([run.values[metric] for run in external])
    second = np.concatenate([second[:, :1], second[:, :0:-1]], axis=1)
    smaller = min((own[0], external[0]), key=lambda run: run.groups)
    return paired_difference(metric, first, second, smaller.n, smaller.groups)
