"""Registries: duplicates are refused, unknown names suggest the nearest."""

from dataclasses import dataclass

import pytest

from core.errors import UnknownName
from core.registry import Registry


@dataclass(frozen=True)
class Row:
    name: str


def test_unknown_name_suggests_the_nearest():
    table = Registry("fruit")
    table.add(Row("apple"))
    with pytest.raises(UnknownName, match="Did you mean 'apple'"):
        table["aple"]
    with pytest.raises(UnknownName, match="Known: apple"):
        table["zzz"]


def test_duplicates_are_refused():
    table = Registry("fruit")
    table.add(Row("apple"))
    with pytest.raises(ValueError, match="twice"):
        table.add(Row("apple"))
    assert list(table) == ["apple"]
