"""Registries: duplicates are refused, unknown names suggest the nearest; functions of rows are imported when called."""

import pickle
import subprocess
import sys
from dataclasses import dataclass

import pytest

from core.errors import UnknownName
from core.registry import LazyFunction, Registry


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


def test_lazy_functions_are_imported_at_the_first_call():
    parse = LazyFunction("json:loads", parse_int=float)
    assert repr(pickle.loads(pickle.dumps(parse))("1")) == "1.0"
    assert LazyFunction("operator:sub", 5)(3) == 2
    script = (
        "import sys; from core.registry import LazyFunction as Lazy; f = Lazy('colorsys:rgb_to_hsv', 0.0);"
        "before = 'colorsys' in sys.modules; f(0.0, 0.0); print(before, 'colorsys' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]
