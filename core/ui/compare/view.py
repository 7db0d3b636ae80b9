"""The selection at the top of the Compare page, passed to each section."""

from dataclasses import dataclass

import streamlit as st

from core.errors import BadRequest
from core.runs import Run, RunMeta, Store
from core.runs.series import Series
from core.ui import address, cache
from core.ui.pickers import title_of


@dataclass(frozen=True)
class View:
    """The selected series at one training-set size.

    Attributes:
        store: the run store.
        runs: series -> runs of one size and split, one per seed.
        size: labeled images per class; None for all.
        finding: index of the finding, or of the class against the rest, to evaluate; None for all.
    """

    store: Store
    runs: dict[Series, list[Run]]
    size: int | None
    finding: int | None

    @property
    def first(self) -> RunMeta:
        """A run that represents what all have in common: data set, task, labels."""
        return next(iter(self.runs.values()))[0].meta

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.first.dataset

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes of the task as evaluated."""
        if self.finding is None:
            return self.first.titles
        named = self.first.titles[self.finding]
        return ("Absent", "Present") if self.first.multilabel else (f"not {named}", named)

    @property
    def file(self) -> str:
        """Prefix of the names of downloads."""
        return f"{self.dataset}-n{self.size or 'full'}"

    def title(self, name: Series) -> str:
        """Return the title of a series, marked if its runs were made with leaks allowed."""
        return title_of(name, self.runs[name])

    def seeds(self) -> list[int]:
        """Return the seeds of all series, sorted."""
        return sorted({meta.seed for runs in self.runs.values() for _, meta in runs})

    def at_seed(self, seed: int) -> dict[Series, Run]:
        """Return the run with a seed for each series that has one."""
        return {name: run for name, runs in self.runs.items() for run in runs if run.meta.seed == seed}

    def target(self) -> int | None:
        """Return the class or finding chosen at the top; if the task has several and none is chosen, show a picker."""
        if self.first.positive is not None or self.finding is not None:
            return self.finding
        multilabel = self.first.multilabel
        run = next(iter(self.runs.values()))[0]
        options = cache.run_scores(run).scores.evaluable if multilabel else range(len(self.first.labels))
        if not options:
            raise BadRequest("No finding can be evaluated: none has enough test images with and without it.")
        title = "Finding to evaluate" if multilabel else "Class to evaluate against the rest"
        bound = address.choice("positive", f"compare_class_{self.dataset}", options, text=self.first.labels.__getitem__)
        return st.selectbox(title, format_func=self.first.titles.__getitem__, **bound)
