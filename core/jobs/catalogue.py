"""What can be chosen of a training, as the trainer itself says it: `python -m trainer list --json`, asked once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import LowshotError
from core.paths import PROJECT

Row = Mapping[str, Any]
_SECONDS = 180


class Catalogue:
    """The trainer's rows by kind and name.

    Args:
        rows: as the trainer prints them; each has a `kind` and a `name`.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[str, dict[str, Row]] = {}
        for row in rows:
            self._rows.setdefault(row["kind"], {})[row["name"]] = row

    def of(self, kind: str) -> dict[str, Row]:
        """The rows of a kind, by name, in the trainer's order."""
        return self._rows.get(kind, {})

    def pairs(self, models: Iterable[str], strategies: Iterable[str]) -> list[tuple[str, str]]:
        """The models and strategies that go together, in the order in which they are trained."""
        rows, wanted = self.of("model"), list(strategies)
        return [(model, one) for model in models for one in wanted if one in rows[model]["strategies"]]

    def strategies_for(self, models: Iterable[str]) -> list[str]:
        """The strategies that go with at least one of some models."""
        taken = {one for model in models for one in self.of("model")[model]["strategies"]}
        return [name for name in self.of("strategy") if name in taken]

    def settings_for(self, strategies: Iterable[str]) -> list[Row]:
        """The settings that all of some strategies take."""
        takes = [set(self.of("strategy")[name]["takes"]) for name in strategies]
        return [row for name, row in self.of("option").items() if takes and all(name in one for one in takes)]


def ask_trainer() -> Catalogue:
    """Asks the trainer, which takes some seconds.

    Raises:
        LowshotError: if it does not answer.
    """
    argv = [sys.executable, "-m", "trainer", "list", "--json"]
    try:
        done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return Catalogue(json.loads(line) for line in done.stdout.splitlines())
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise LowshotError(
            f"The trainer does not say what it can do ({type(error).__name__}). Run python -m trainer list to see why."
        ) from None
