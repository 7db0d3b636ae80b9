"""Meta-learning tasks (episodes), drawn from data sets other than the target.

A task has support images to adapt to and query images to evaluate on. The two sets share no group (patient, lesion).

References:
    Episodes: Vinyals et al. 2016, arXiv:1606.04080.
"""

from dataclasses import dataclass

import numpy as np
import torch

from core.data.transforms import normalize, to_unit
from core.errors import BadRequest
from core.types import Images, ImageSpec

_TRIES = 50


@dataclass(frozen=True)
class Pool:
    """Images of a data set from which tasks may be drawn.

    Attributes:
        name: name of the data set.
        images: (N, C, S, S) uint8 of the whole data set.
        labels: (N,) class indices, or (N, F) findings of 0, 1 and NaN.
        groups: (N,) group numbers.
        rows: positions that may be used.
    """

    name: str
    images: Images
    labels: np.ndarray
    groups: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Task:
    """A task in the form of the target: with as many logits, of which it uses some.

    Attributes:
        support, query: (B, C, S, S) normalized images.
        support_targets, query_targets: (B,) indices into `columns`; or (B, logits) findings with NaN for those that
            are not part of the task.
        columns: the logits of its classes; None for findings.
    """

    support: torch.Tensor
    support_targets: torch.Tensor
    query: torch.Tensor
    query_targets: torch.Tensor
    columns: torch.Tensor | None


@dataclass(frozen=True)
class TaskSpec:
    """Specification of the tasks to draw.

    Attributes:
        logits: number of classes or findings of the target.
        findings: whether they are findings.
        shots, queries: images per class.
    """

    logits: int
    findings: bool
    shots: int
    queries: int


class Tasks:
    """Endless supply of tasks from several data sets, each equally likely.

    Args:
        pools: data sets to draw from; those unsuitable for this kind of task are left out.
        draw: specification of the tasks.
        image: the encoder's input specification.
        device: device of the images.
    Raises:
        BadRequest: if no pool is suitable.
    """

    def __init__(self, pools: list[Pool], draw: TaskSpec, image: ImageSpec, device: torch.device) -> None:
        self._draw, self._image, self._device = draw, image, device
        self._choices = [(pool, members) for pool in pools if (members := _members(pool, draw))]
        if not self._choices:
            kind = "findings" if draw.findings else "classes"
            raise BadRequest(
                f"No task can be drawn from {', '.join(pool.name for pool in pools)}: tasks need {kind} with images of "
                f"more than {draw.shots} patients each. Lower --shots or name other --sources."
            )

    @property
    def names(self) -> list[str]:
        """The data sets from which tasks are drawn."""
        return [pool.name for pool, _ in self._choices]

    def next(self, random: np.random.Generator) -> Task:
        """Draw a task.

        Raises:
            BadRequest: if support and query sets without common patients cannot be drawn.
        """
        pool, members = self._choices[random.integers(len(self._choices))]
        for _ in range(_TRIES):
            if task := self._try(pool, members, random):
                return task
        raise BadRequest(
            f"No task of {pool.name} was found whose support and query sets share no patients. Lower --shots."
        )

    def _try(self, pool: Pool, members: dict[int, np.ndarray], random: np.random.Generator) -> Task | None:
        draw = self._draw
        single_finding = pool.labels.ndim == 2 and not draw.findings
        chosen = random.permutation(list(members))[: 1 if single_finding else draw.logits]
        sides = [members[index] for index in chosen]
        if pool.labels.ndim == 2:  # the other side: images known to show none of the findings
            sides.append(pool.rows[(pool.labels[pool.rows][:, chosen] <= 0.5).all(axis=1)])
        support = [_one_per_group(side, pool.groups, random)[: draw.shots] for side in sides]
        support_groups = pool.groups[np.concatenate(support)]
        free = [side[~np.isin(pool.groups[side], support_groups)] for side in sides]
        query = [_one_per_group(side, pool.groups, random)[: draw.queries] for side in free]
        if not all(map(len, (*support, *query))):
            return None
        sets = (support, query)
        slots = random.permutation(draw.logits)[: len(chosen) if draw.findings else len(sides)]
        targets = [
            self._findings(pool, part, chosen, slots)
            if draw.findings
            else np.repeat(np.arange(len(part)), [len(side) for side in part])
            for part in sets
        ]
        images = [normalize(to_unit(pool.images[np.concatenate(part)], self._device), self._image) for part in sets]
        tensors = [torch.from_numpy(target).to(self._device) for target in targets]
        columns = None if draw.findings else torch.from_numpy(slots).to(self._device)
        return Task(images[0], tensors[0], images[1], tensors[1], columns)

    def _findings(self, pool: Pool, part: list[np.ndarray], chosen: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return (B, logits) labels: the chosen findings in the given slots, unknown in all others."""
        rows = np.concatenate(part)
        targets = np.full((len(rows), self._draw.logits), np.nan, np.float32)
        targets[:, slots] = pool.labels[rows][:, chosen]
        return targets


def _members(pool: Pool, draw: TaskSpec) -> dict[int, np.ndarray]:
    """Map each class or finding with enough groups to its rows; empty where no task of the kind can be drawn."""
    labels = pool.labels[pool.rows]
    if labels.ndim == 2:
        candidates = {index: pool.rows[column > 0.5] for index, column in enumerate(labels.T)}
    else:
        candidates = {int(c): pool.rows[labels == c] for c in np.unique(labels)}
    eligible = {c: rows for c, rows in candidates.items() if len(np.unique(pool.groups[rows])) > draw.shots}
    if labels.ndim == 2:
        return eligible if draw.findings or draw.logits == 2 else {}
    return eligible if len(eligible) > 1 and not draw.findings else {}


def _one_per_group(rows: np.ndarray, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return one row per group, in random order."""
    order = random.permutation(rows)
    _, first = np.unique(groups[order], return_index=True)
    return order[np.sort(first)]
