"""Tasks for meta-learning: a few images to adapt to and others to be judged by, drawn from data sets that are not the
target. Support and query set of a task share no group (patient, lesion).

References:
    Episodes: Vinyals et al. 2016, arXiv:1606.04080.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from core.data.transforms import normalise, to_unit
from core.errors import BadRequest
from core.types import Images, ImageSpec

_TRIES = 50


@dataclass(frozen=True)
class Pool:
    """Images of a data set that tasks may be made of.

    Attributes:
        name: of the data set.
        images: (N, C, S, S) uint8 of the whole set.
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
    """A task in the form of the target: so many logits, of which it uses some.

    Attributes:
        support, query: (B, C, S, S) normalised images.
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
class Draw:
    """How tasks are drawn.

    Attributes:
        logits: of the target: classes or findings.
        findings: whether they are findings.
        shots, queries: images a class.
    """

    logits: int
    findings: bool
    shots: int
    queries: int


class Tasks:
    """An endless supply of tasks from several data sets, each as often as any other.

    Args:
        pools: where they come from; those that no task of the kind can be made of are left out.
        draw: how they are drawn.
        image: the encoder's input.
        device: where images go.
    Raises:
        BadRequest: if no pool is left.
    """

    def __init__(self, pools: list[Pool], draw: Draw, image: ImageSpec, device: torch.device) -> None:
        self._draw, self._image, self._device = draw, image, device
        self._choices = [(pool, members) for pool in pools if (members := _members(pool, draw))]
        if not self._choices:
            kind = "findings" if draw.findings else "classes"
            raise BadRequest(
                f"No task can be drawn from {', '.join(pool.name for pool in pools)}: that takes {kind} with images of "
                f"more than {draw.shots} patients each. Lower --shots or name other --sources."
            )

    @property
    def names(self) -> list[str]:
        """The data sets that tasks come from."""
        return [pool.name for pool, _ in self._choices]

    def next(self, random: np.random.Generator) -> Task:
        """Draws a task.

        Raises:
            BadRequest: if patients are shared so much that support and query cannot be told apart.
        """
        pool, members = self._choices[random.integers(len(self._choices))]
        for _ in range(_TRIES):
            if task := self._try(pool, members, random):
                return task
        raise BadRequest(f"Tasks of {pool.name} would share patients between support and query. Lower --shots.")

    def _try(self, pool: Pool, members: dict[int, np.ndarray], random: np.random.Generator) -> Task | None:
        draw = self._draw
        one_finding = pool.labels.ndim == 2 and not draw.findings
        chosen = random.permutation(list(members))[: 1 if one_finding else draw.logits]
        sides = [members[index] for index in chosen]
        if pool.labels.ndim == 2:  # and what is known to show none of them
            sides.append(pool.rows[(pool.labels[pool.rows][:, chosen] <= 0.5).all(axis=1)])
        support = [_one_a_group(side, pool.groups, random)[: draw.shots] for side in sides]
        taken = pool.groups[np.concatenate(support)]
        free = [side[~np.isin(pool.groups[side], taken)] for side in sides]
        query = [_one_a_group(side, pool.groups, random)[: draw.queries] for side in free]
        if not all(map(len, (*support, *query))):
            return None
        sets = (support, query)
        places = random.permutation(draw.logits)[: len(chosen) if draw.findings else len(sides)]
        targets = [self._findings(pool, part, chosen, places) if draw.findings else _sides(part) for part in sets]
        images = [normalise(to_unit(pool.images[np.concatenate(part)], self._device), self._image) for part in sets]
        at = [torch.from_numpy(target).to(self._device) for target in targets]
        columns = None if draw.findings else torch.from_numpy(places).to(self._device)
        return Task(images[0], at[0], images[1], at[1], columns)

    def _findings(self, pool: Pool, part: list[np.ndarray], chosen: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(B, logits): the labels of some findings in some places, unknown in all others."""
        rows = np.concatenate(part)
        targets = np.full((len(rows), self._draw.logits), np.nan, np.float32)
        targets[:, places] = pool.labels[rows][:, chosen]
        return targets


def _members(pool: Pool, draw: Draw) -> dict[int, np.ndarray]:
    """Class or finding -> its rows, for those with enough groups; none where no task of the kind can be made."""
    labels = pool.labels[pool.rows]
    if labels.ndim == 2:
        showing = {index: pool.rows[column > 0.5] for index, column in enumerate(labels.T)}
    else:
        showing = {int(c): pool.rows[labels == c] for c in np.unique(labels)}
    found = {c: rows for c, rows in showing.items() if len(np.unique(pool.groups[rows])) > draw.shots}
    if labels.ndim == 2:
        return found if draw.findings or draw.logits == 2 else {}
    return found if len(found) > 1 and not draw.findings else {}


def _sides(part: list[np.ndarray]) -> np.ndarray:
    """(B,): for each image which of the sides it is on."""
    return np.repeat(np.arange(len(part)), [len(side) for side in part])


def _one_a_group(rows: np.ndarray, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows in random order, of each group one."""
    order = random.permutation(rows)
    _, first = np.unique(groups[order], return_index=True)
    return order[np.sort(first)]
