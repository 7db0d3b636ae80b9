"""Settings by model and size from the search (`recipes.json`), and their selection from the search's logs.

The best settings depend on the number of labeled images: views and penalties that help at 200 images per class hurt at
ten. A model that is the medical twin of another uses the other's settings, so that the two differ in weights alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from core.models.specs import ModelSpec

PATH = Path(__file__).with_name("recipes.json")


@cache
def recipes() -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Return the table of the search: strategy -> model -> size -> `settings` and their `score`.

    Scores are those on development images.
    """
    return json.loads(PATH.read_text())


def recipe_for(spec: ModelSpec, strategy: str, per_class: float) -> Mapping[str, Any]:
    """Return the settings of the searched size that is nearest by ratio; empty where nothing was searched.

    Of two sizes that are equally near the smaller one counts: more data sets were searched there.

    Args:
        spec: the model's row in the registry.
        strategy: name of the strategy.
        per_class: labeled images per class.
    """
    by_size = recipes().get(strategy, {}).get(spec.settings_from or spec.name, {})
    if not by_size:
        return {}
    nearest = min(by_size, key=lambda size: (round(abs(math.log(per_class / int(size))), 6), int(size)))
    return by_size[nearest]["settings"]


def choose(rows: Sequence[Mapping[str, Any]], model: str) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Select for each strategy, model and size the settings with the best mean score over data sets.

    Args:
        rows: rows of a search's log.
        model: model of the trials that name none.
    Returns:
        (strategy, model) -> size -> `settings` and their `score`.
    """
    best: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        options = {name: value for name, value in row["options"].items() if name not in ("strategy", "model")}
        by_size = best.setdefault((row["options"]["strategy"], row["options"].get("model", model)), {})
        for size in sorted({cell["size"] for cell in row["cells"]}):
            value = score_at(row, size)
            if str(size) not in by_size or value > by_size[str(size)]["score"]:
                by_size[str(size)] = {"score": value, "settings": options}
    return {
        key: {size: row | {"score": round(row["score"], 5)} for size, row in by_size.items()}
        for key, by_size in best.items()
    }


def score_at(row: Mapping[str, Any], size: int) -> float:
    """Return a trial's score at one size: the mean over data sets of the mean over seeds."""
    cells = [cell for cell in row["cells"] if cell["size"] == size]
    sets = sorted({cell["set"] for cell in cells})
    return float(np.mean([np.mean([cell["score"] for cell in cells if cell["set"] == name]) for name in sets]))


def best_model(strategy: str) -> str:
    """Return the model that did best in the search for a strategy, over sizes."""
    searched = recipes()[strategy]
    means = {model: np.mean([facts["score"] for facts in by_size.values()]) for model, by_size in searched.items()}
    return max(means, key=lambda model: means[model])
