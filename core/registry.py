"""Registry: a table of rows that are looked up by name, such as data sets, models, strategies and losses."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

from core.errors import UnknownName


class Named(Protocol):
    """An object with a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, T]):
    """A read-only mapping from name to row, filled by `add`; pages and tables keep the order of insertion."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._rows: dict[str, T] = {}

    def add(self, row: T) -> T:
        """Add a row and return it.

        Raises:
            ValueError: if the name is already registered.
        """
        if row.name in self._rows:
            raise ValueError(f"{self.kind} {row.name!r} is registered twice")
        self._rows[row.name] = row
        return row

    def __getitem__(self, name: str) -> T:
        try:
            return self._rows[name]
        except KeyError:
            close = difflib.get_close_matches(name, self._rows, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(self._rows)}."
            raise UnknownName(f"There is no {self.kind} named {name!r}. {hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
