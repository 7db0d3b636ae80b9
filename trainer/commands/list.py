"""`list`: list data sets, models, strategies and settings, as text or as JSON rows for other programs."""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from core.data import DATASETS
from core.data.augmentation import AUGMENTATIONS, PRESETS
from core.data.preprocessing import PREPROCESSING
from core.data.specs import is_present
from core.models.specs import by_family
from core.models.weights import state_of
from trainer.flags import OPTIONS
from trainer.training.class_balance import IMBALANCE
from trainer.training.losses import LOSSES
from trainer.training.optimizers import OPTIMIZERS, SCHEDULES
from trainer.training.strategies import STRATEGIES, strategies_of

_CHOICES: dict[str, Iterable[str]] = {
    "augment": (*PRESETS, *AUGMENTATIONS),
    "preparation": PREPROCESSING,
    "imbalance": IMBALANCE,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "sources": [name for name, spec in DATASETS.items() if not spec.corpus_only],
}
_SEVERAL = ("augment", "preparation", "sources")


def catalog() -> Iterator[dict[str, Any]]:
    """Yield rows of data sets, models, strategies, options, and the values of options."""
    for data in DATASETS.values():
        yield {
            "kind": "dataset", "name": data.name, "title": data.title, "task": data.task, "dims": data.dims,
            "present": is_present(data), "corpus_only": data.corpus_only, "licence": data.licence,
        }  # fmt: skip
    for model in by_family():
        yield {
            "kind": "model", "name": model.name, "title": model.title, "family": model.family,
            "dims": model.image.dims, "weights": state_of(model.weights)[0], "strategies": strategies_of(model),
        }  # fmt: skip
    for strategy in STRATEGIES.values():
        yield {
            "kind": "strategy", "name": strategy.name, "title": strategy.title, "meaning": strategy.meaning,
            "takes": list(strategy.takes), "settings": asdict(strategy.settings),
        }  # fmt: skip
    for option in OPTIONS.values():
        yield {
            "kind": "option", "name": option.name, "flag": option.flag, "type": option.kind.__name__,
            "meaning": option.meaning, "least": option.least, "above": option.above, "below": option.below,
            "choices": list(_CHOICES.get(option.name, option.choices)), "several": option.name in _SEVERAL,
        }  # fmt: skip
    for name, parts in PRESETS.items():
        yield {"kind": "augment", "name": name, "title": name, "meaning": ", ".join(parts) or "images as they are"}
    for change in AUGMENTATIONS.values():
        meaning = f"{change.ranges}. {change.caveat}"
        yield {"kind": "augment", "name": change.name, "title": change.title, "meaning": meaning}
    for step in PREPROCESSING.values():
        meaning = f"{step.meaning} {step.caveat}".strip()
        yield {"kind": "preparation", "name": step.name, "title": step.title, "meaning": meaning}
    for way in IMBALANCE.values():
        yield {"kind": "imbalance", "name": way.name, "title": way.title, "meaning": way.meaning}
    for kind, table in (("loss", LOSSES), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        for row in table.values():
            yield {"kind": kind, "name": row.name, "title": row.name, "meaning": row.meaning}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object per row, with its kind")


def run(arguments: argparse.Namespace) -> int:
    """Print the lists."""
    if arguments.json:
        for entry in catalog():
            print(json.dumps(entry), flush=True)
        return 0
    print("Data sets")
    for data in DATASETS.values():
        where = "generated" if data.synthetic else "present" if is_present(data) else "not on this machine"
        use = "corpus only" if data.corpus_only else data.task
        print(f"  {data.name:28} {use:12} {where:20} {data.title}; {data.licence}")
    print("Models")
    for model in by_family():
        kind = "volumes" if model.image.dims == 3 else "images"
        state, _ = state_of(model.weights)
        print(f"  {model.name:44} {model.family:10} {kind:8} {state:17} {', '.join(strategies_of(model))}")
    rows = list(catalog())
    for kind, title in (
        ("strategy", "Strategies"),
        ("augment", "Augmentations (--augment, several joined by +)"),
        ("preparation", "Preprocessing (--preparation, several joined by +)"),
        ("imbalance", "Class imbalance (--imbalance)"),
        ("loss", "Losses (--loss); class-weighted: --imbalance class-weights"),
        ("optimizer", "Optimizers (--optimizer)"),
        ("schedule", "Schedules of the learning rate (--schedule)"),
    ):
        print(title)
        for row in rows:
            if row["kind"] == kind:
                print(f"  {row['name']:28} {row['meaning']}")
    return 0
