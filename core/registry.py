"""Registry: a table of rows that are looked up by name, such as data sets, models, strategies and losses."""

import difflib
from pkgutil import resolve_name
from typing import Any, Protocol, TypeVar

from core.errors import UnknownName


class Named(Protocol):
    """An object with a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(dict[str, T]):
    """A mapping from name to row, filled by `add`; pages and tables keep the order of insertion."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, *rows: T) -> None:
        """Add rows.

        Raises:
            ValueError: if a name is already registered.
        """
        for row in rows:
            if row.name in self:
                raise ValueError(f"{self.kind} {row.name!r} is registered twice")
            self[row.name] = row

    def __missing__(self, name: str) -> T:
        close = difflib.get_close_matches(name, self, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(self)}."
        raise UnknownName(f"There is no {self.kind} named {name!r}. {hint}")


class LazyFunction:
    """A function in another module, which is imported at the first call: listing the rows loads no large library.

    Args:
        path: module and function, as in `core.models.astra:build`.
        arguments, named: first arguments and named arguments of every call.
    """

    def __init__(self, path: str, *arguments: Any, **named: Any) -> None:
        self.path, self.arguments, self.named = path, arguments, named

    def __call__(self, *arguments: Any) -> Any:
        return resolve_name(self.path)(*self.arguments, *arguments, **self.named)
