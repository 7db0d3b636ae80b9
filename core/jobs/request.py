"""Request of a job: what to compute, its command line, and which paths of own images are allowed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.data.datasets.custom import dataset_name
from core.errors import BadRequest
from core.paths import data_roots

MOST_RUNS = 1000
MOST_SEED, MOST_SIZE = 10_000, 1_000_000
_MOST_DIGITS = len(str(MOST_SIZE))
ALL_IMAGES = "full"
CLUSTER = "RAY_ADDRESS"  # Ray's own variable: the cluster on which jobs are trained
JOINED = "+"
CURVE = "curve"
ON_STORED_RUNS = ("sanity", "subgroups")  # commands that need a data set and nothing else


@dataclass(frozen=True)
class Request:
    """Learning curves to train, or a command on the stored runs of a data set.

    Attributes:
        title: display name of the data set.
        dataset: name of a registered data set; "" for own images.
        folder: path of own images, below a data root; "" for a registered set.
        models, strategies: their names.
        sizes: labeled images per class; None for all.
        seeds: seeds of the subsets.
        options: settings that differ from the strategy's defaults.
        expected: expected seconds of each run, in the order in which they are trained; 0 for one that is in the store,
            empty if unknown.
        command: `curve`, or one of `ON_STORED_RUNS`; these have a title and a data set only.
    """

    title: str
    models: tuple[str, ...]
    strategies: tuple[str, ...]
    sizes: tuple[int | None, ...]
    seeds: tuple[int, ...]
    dataset: str = ""
    folder: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    expected: tuple[float, ...] = ()
    command: str = CURVE

    @property
    def dataset_name(self) -> str:
        """The name under which the runs of the data set are stored."""
        return self.dataset or dataset_name(Path(self.folder))

    def check(self) -> None:
        """Raise if the request cannot be run on this machine.

        Raises:
            BadRequest: if its form is wrong, or own images are not below a data root.
        """
        self.check_form()
        if self.folder:
            own_path(self.folder)

    def check_form(self) -> None:
        """Raise if the request is invalid on any machine.

        The location of images is not checked: they may be gone while the job still exists.

        Raises:
            BadRequest: if something is missing, out of range, or looks like a flag or a path instead of a name.
        """
        if self.command in ON_STORED_RUNS and self.dataset and not self.folder:
            return
        if self.command != CURVE:
            raise BadRequest(f"Expected a job on a registered data set, but got {self.command!r}.")
        for kind, chosen in (
            ("model", self.models),
            ("training strategy", self.strategies),
            ("size", self.sizes),
            ("seed", self.seeds),
        ):
            if not chosen:
                raise BadRequest(f"Choose at least one {kind}.")
        if bool(self.dataset) == bool(self.folder):
            raise BadRequest("Choose a data set, or give the path of your own images.")
        if bad := [size for size in self.sizes if size is not None and not 1 <= size <= MOST_SIZE]:
            raise BadRequest(f"Expected sizes of at least 1 image per class, but got {bad[0]}.")
        if bad_seeds := [seed for seed in self.seeds if not 0 <= seed <= MOST_SEED]:
            raise BadRequest(f"Expected seeds from 0 to {MOST_SEED}, but got {bad_seeds[0]}.")
        stated = [name for value in self.options.values() if isinstance(value, str) for name in value.split(JOINED)]
        for name in (*self.models, *self.strategies, *stated):
            if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name[0] == "-":
                raise BadRequest(f"Expected a name from the lists, but got {name!r}.")
        if (runs := len(self.models) * len(self.strategies) * len(self.sizes) * len(self.seeds)) > MOST_RUNS:
            raise BadRequest(f"These are up to {runs:,} runs; a job may have {MOST_RUNS:,} at most. Choose fewer.")

    def with_images(self, change: str) -> Request | None:
        """Return the request for `fewer` or `more` images; None if there is none.

        It leaves out the largest or the smallest size; a single size is halved or doubled.
        """
        only, fewer = self.sizes[0] or 0, change == "fewer"
        others = self.sizes[:-1] if fewer else self.sizes[1:]
        sizes = others or tuple(filter(None, [only // 2 if fewer else 2 * only]))
        return replace(self, sizes=sizes, expected=()) if sizes else None

    def argv(self) -> list[str]:
        """Return the command line, without a shell; jobs are trained on a cluster where one is configured."""
        source = f"--folder={self.folder}" if self.folder else f"--dataset={self.dataset}"
        if self.command != CURVE:
            return [sys.executable, "-m", "trainer", self.command, source]
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in self.options.items()]
        cluster = ["--engine=ray"] if os.environ.get(CLUSTER) else []
        return [
            sys.executable, "-m", "trainer", "curve", source, f"--models={','.join(self.models)}",
            f"--strategies={','.join(self.strategies)}", f"--sizes={','.join(map(size_text, self.sizes))}",
            f"--seeds={','.join(map(str, self.seeds))}", *(["--image-check"] if self.folder else []),
            *settings, *cluster,
        ]  # fmt: skip


def from_record(record: Any) -> Request:
    """Parse a stored request.

    Raises:
        BadRequest: if it is damaged.
    """
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        request = Request(**values)
        request.check_form()
    except (AttributeError, TypeError, ValueError) as error:
        raise BadRequest(f"The job's record is damaged ({error}).") from None
    return request


def size_text(size: int | None) -> str:
    """Format a size for the command line."""
    return ALL_IMAGES if size is None else str(size)


def sizes_of(texts: list[str]) -> tuple[int | None, ...]:
    """Parse sizes that a person typed or picked; sorted, without duplicates.

    Raises:
        BadRequest: if one is neither a number of at most seven digits nor `full`.
    """
    sizes: list[int | None] = []
    for text in texts:
        cleaned = text.strip().casefold()
        if cleaned != ALL_IMAGES and not (cleaned.isascii() and cleaned.isdigit()):
            raise BadRequest(f"Expected sizes as whole numbers, or {ALL_IMAGES}, but got {text!r}.")
        if cleaned != ALL_IMAGES and len(cleaned) > _MOST_DIGITS:
            raise BadRequest(f"Expected sizes of at most {MOST_SIZE:,}, but got a number of {len(cleaned):,} digits.")
        sizes.append(None if cleaned == ALL_IMAGES else int(cleaned))
    return tuple(sorted(set(sizes), key=lambda size: (size is None, size or 0)))


def own_path(text: str) -> Path:
    """Resolve the path of a folder or CSV file of own images, including all links.

    Args:
        text: absolute, or relative to a data root.
    Raises:
        BadRequest: if nothing exists there, or it is not below a data root; the message is the same for both, so that
            it does not reveal what exists elsewhere.
    """
    roots = data_roots()
    given = Path(text.strip())
    for path in [given] if given.is_absolute() else [root / given for root in roots]:
        try:
            resolved = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            continue
        if any(resolved.is_relative_to(root) for root in roots) and (
            resolved.is_dir() or resolved.suffix.lower() == ".csv"
        ):
            return resolved
    raise BadRequest(
        f"Expected a folder or a CSV file below {' or '.join(map(str, roots))}, but there is none at "
        f"{text.strip()!r}. Move your own images there (LOWSHOT_DATA)."
    )
