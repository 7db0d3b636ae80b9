"""The run store: what a run is, and how it is written, read and checked."""

from core.runs.predictions import (
    Predictions,
    as_stored,
    external_names,
    read_predictions,
    scores_of,
    shared_classes,
    stored_parts,
)
from core.runs.record import OLD_RECIPE, PREDICTIONS_FILE, PROTOCOL, WEIGHTS_FILE, ExternalRecord, RunMeta
from core.runs.store import (
    HISTORY_FILE,
    RUN_FILE,
    Store,
    add_external,
    add_part,
    open_store,
    read_history,
    read_run,
    read_weights,
    save_run,
)

__all__ = [
    "HISTORY_FILE",
    "OLD_RECIPE",
    "PREDICTIONS_FILE",
    "PROTOCOL",
    "RUN_FILE",
    "WEIGHTS_FILE",
    "ExternalRecord",
    "Predictions",
    "RunMeta",
    "Store",
    "add_external",
    "add_part",
    "as_stored",
    "external_names",
    "open_store",
    "read_history",
    "read_predictions",
    "read_run",
    "read_weights",
    "save_run",
    "scores_of",
    "shared_classes",
    "stored_parts",
]
