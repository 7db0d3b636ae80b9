"""Training options, as listed by the trainer: `python -m trainer list --json`, run once."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import LowshotError
from core.paths import PROJECT

Row = Mapping[str, Any]
_SECONDS = 180


class Catalog:
    """The trainer's rows by kind and name.

    Args:
        rows: rows as the trainer prints them; each has a `kind` and a `name`.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[str, dict[str, Row]] = {}
        for row in rows:
            self._rows.setdefault(row["kind"], {})[row["name"]] = row

    def of(self, kind: str) -> dict[str, Row]:
        """Return the rows of a kind, by name, in the trainer's order."""
        return self._rows.get(kind, {})

    def pairs(self, models: Iterable[str], strategies: Iterable[str]) -> list[tuple[str, str]]:
        """Return the compatible pairs of model and strategy, in the order in which they are trained."""
        rows, requested = self.of("model"), list(strategies)
        return [
            (model, strategy) for model in models for strategy in requested if strategy in rows[model]["strategies"]
        ]

    def strategies_for(self, models: Iterable[str]) -> list[str]:
        """Return the strategies compatible with at least one of the models."""
        compatible = {strategy for model in models for strategy in self.of("model")[model]["strategies"]}
        return [name for name in self.of("strategy") if name in compatible]

    def settings_for(self, strategies: Iterable[str]) -> list[Row]:
        """Return the settings that all of the strategies accept."""
        accepted = [set(self.of("strategy")[name]["takes"]) for name in strategies]
        return [row for name, row in self.of("option").items() if accepted and all(name in names for names in accepted)]


def read_catalog() -> Catalog:
    """Query the trainer for its options, which takes some seconds.

    Raises:
        LowshotError: if the query fails.
    """
    argv = [sys.executable, "-m", "trainer", "list", "--json"]
    try:
        process = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return Catalog(json.loads(line) for line in process.stdout.splitlines())
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise LowshotError(
            f"The training options could not be read ({type(error).__name__}). Run python -m trainer list to see why."
        ) from None
