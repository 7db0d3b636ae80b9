"""Embeddings that the runs of a sweep share: tasks that compute each one once, for engines of several machines."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from core.data.dataset import Dataset
from core.data.image_cache import Progress
from trainer.training.embedding_cache import EmbeddedView, EmbeddingCache
from trainer.training.engines import Task
from trainer.training.run_files import files_of_run
from trainer.training.run_plan import RunPlan

_ROWS = 256  # images of a task


class _Need(NamedTuple):
    """Embeddings that a run reads: of a data set or one of its external sets, in some augmented views."""

    external: str
    augment: str
    views: int
    rows: np.ndarray


class SharedEmbeddings:
    """The tasks of a sweep that compute embeddings.

    Args:
        dataset: the data set of the sweep.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._requested: dict[tuple[object, ...], set[int]] = {}
        self._tasks: dict[tuple[object, ...], list[Task]] = {}

    def tasks_for(self, plan: RunPlan) -> tuple[Task, ...]:
        """Return the tasks that compute the embeddings that a run reads; runs before it may have the same ones."""
        if not plan.strategy.head_only:
            return ()
        needed: list[Task] = []
        for need in _needs(plan, self._dataset):
            key = (plan.spec.name, plan.setup.config["start"], str(plan.spec.image), plan.preparation.name, *need[:3])
            requested = self._requested.setdefault(key, set())
            new = np.array(sorted(set(need.rows.tolist()) - requested), int)
            requested.update(new.tolist())
            tasks = self._tasks.setdefault(key, [])
            for first in range(0, len(new), _ROWS):
                arguments = (plan, need._replace(rows=new[first : first + _ROWS]))
                files = partial(files_of_run, plan, self._dataset)
                tasks.append(Task(None, f"embeddings of {plan.spec.name}", _embed, (self._dataset,), arguments, files))
            needed += tasks
        return tuple(needed)


def _needs(plan: RunPlan, dataset: Dataset) -> Iterator[_Need]:
    settings = plan.settings
    yield _Need("", settings.augment, settings.views, plan.rows)
    yield _Need("", "mirror", settings.mirror, np.concatenate([dataset.parts.test, dataset.calibration]))
    for external in dataset.external:
        yield _Need(external.name, "mirror", settings.mirror, external.dataset.parts.test)


def _embed(dataset: Dataset, plan: RunPlan, need: _Need, device: torch.device, steps: Progress) -> list[EmbeddedView]:
    sets = {"": dataset} | {external.name: external.dataset for external in dataset.external}
    chosen, spec = sets[need.external], plan.spec
    model = spec.build(len(dataset.labels), plan.setup.dataset, plan.cell.seed)
    cache = EmbeddingCache(
        model, spec.image, chosen.spec.name, chosen.fingerprint, len(chosen.listing), need.augment, device,
        plan.setup.preparation,
    )  # fmt: skip
    return cache.views(plan.images(chosen)[need.rows], need.rows, need.views, steps)
