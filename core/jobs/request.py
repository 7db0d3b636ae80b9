"""What a job is asked to do, the command line that does it, and which paths of own images may be asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.errors import BadRequest
from core.paths import data_roots

MOST_RUNS = 1000
MOST_SEED, MOST_SIZE = 10_000, 1_000_000
_MOST_DIGITS = len(str(MOST_SIZE))
FULL = "full"
JOINED = "+"


@dataclass(frozen=True)
class Request:
    """Learning curves to be trained.

    Attributes:
        title: of the data set, for people.
        dataset: name of a registered data set; "" for own images.
        folder: path of own images, below a data root; "" for a registered set.
        models, strategies: their names.
        sizes: labelled images a class; None for all.
        seeds: of the subsets.
        options: settings in which the training departs from its strategy's own.
        expected: seconds that each run is expected to take, in the order in which they are trained; 0 for one that is
            in the store, empty where nothing is known.
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

    def check(self) -> None:
        """Refuses what cannot be a job here and now.

        Raises:
            BadRequest: if its form is wrong, or own images do not lie below a data root.
        """
        self.check_form()
        if self.folder:
            own_path(self.folder)

    def check_form(self) -> None:
        """Refuses what can be a job nowhere. Where the images lie is left out: they may be gone, the job is not.

        Raises:
            BadRequest: if something is missing, out of range, or looks like a flag or a path where a name is wanted.
        """
        for what, chosen in (
            ("model", self.models),
            ("way of training", self.strategies),
            ("size", self.sizes),
            ("seed", self.seeds),
        ):
            if not chosen:
                raise BadRequest(f"Choose at least one {what}.")
        if bool(self.dataset) == bool(self.folder):
            raise BadRequest("Choose a data set, or give the path of your own images.")
        if bad := [size for size in self.sizes if size is not None and not 1 <= size <= MOST_SIZE]:
            raise BadRequest(f"Expected sizes of at least 1 image a class, but got {bad[0]}.")
        if bad_seeds := [seed for seed in self.seeds if not 0 <= seed <= MOST_SEED]:
            raise BadRequest(f"Expected seeds from 0 to {MOST_SEED}, but got {bad_seeds[0]}.")
        stated = [name for value in self.options.values() if isinstance(value, str) for name in value.split(JOINED)]
        for name in (*self.models, *self.strategies, *stated):
            if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name[0] == "-":
                raise BadRequest(f"Expected a name from the lists, but got {name!r}.")
        if (runs := len(self.models) * len(self.strategies) * len(self.sizes) * len(self.seeds)) > MOST_RUNS:
            raise BadRequest(f"These are up to {runs:,} runs; a job takes {MOST_RUNS:,} at most. Choose fewer.")

    def argv(self) -> list[str]:
        """The command line, without a shell."""
        where = f"--folder={self.folder}" if self.folder else f"--dataset={self.dataset}"
        stated = [f"--{name.replace('_', '-')}={value}" for name, value in self.options.items()]
        return [
            sys.executable, "-m", "trainer", "curve", where, f"--models={','.join(self.models)}",
            f"--strategies={','.join(self.strategies)}", f"--sizes={','.join(map(size_text, self.sizes))}",
            f"--seeds={','.join(map(str, self.seeds))}", *stated,
        ]  # fmt: skip

    def record(self) -> dict[str, Any]:
        """As plain values, for a file."""
        return asdict(self)


def from_record(record: Any) -> Request:
    """A stored request.

    Raises:
        BadRequest: if it is none.
    """
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        found = Request(**values)
        found.check_form()
    except (AttributeError, TypeError, ValueError) as error:
        raise BadRequest(f"The job's record is damaged ({error}).") from None
    return found


def size_text(size: int | None) -> str:
    """As the command line has it."""
    return FULL if size is None else str(size)


def sizes_of(texts: list[str]) -> tuple[int | None, ...]:
    """Sizes that a person typed or picked, each once, in order.

    Raises:
        BadRequest: if one is neither a number of at most seven digits nor `full`.
    """
    found: list[int | None] = []
    for text in texts:
        cleaned = text.strip().casefold()
        if cleaned != FULL and not (cleaned.isascii() and cleaned.isdigit()):
            raise BadRequest(f"Expected sizes as whole numbers, or {FULL}, but got {text!r}.")
        if cleaned != FULL and len(cleaned) > _MOST_DIGITS:
            raise BadRequest(f"Expected sizes of at most {MOST_SIZE:,}, but got a number of {len(cleaned):,} digits.")
        found.append(None if cleaned == FULL else int(cleaned))
    return tuple(sorted(set(found), key=lambda size: (size is None, size or 0)))


def own_path(text: str) -> Path:
    """The folder or CSV file of own images that a path names, with all links resolved.

    Args:
        text: absolute, or relative to a data root.
    Raises:
        BadRequest: if there is nothing, or it does not lie below a data root; both in the same words, so that nobody
            learns from them what lies elsewhere.
    """
    roots = data_roots()
    given = Path(text.strip())
    for path in [given] if given.is_absolute() else [root / given for root in roots]:
        try:
            found = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            continue
        if any(found.is_relative_to(root) for root in roots) and (found.is_dir() or found.suffix.lower() == ".csv"):
            return found
    raise BadRequest(
        f"Expected a folder, or a CSV file, below {' or '.join(map(str, roots))}, but there is none at "
        f"{text.strip()!r}. Own images must lie there (LOWSHOT_DATA)."
    )
