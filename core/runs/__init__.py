"""The run store: what a run is, and how it is written, read and checked."""

from core.runs.predictions import (
    Predictions,
    as_stored,
    read_predictions,
    scores_of,
    shared_classes,
    stored_parts,
)
from core.runs.record import (
    OLD_RECIPE,
    PROTOCOL,
    WEIGHTS_FILE,
    ExternalRecord,
    FittedRun,
    RunMeta,
    RunSetup,
)
from core.runs.store import (
    Run,
    Store,
    add_external,
    find_run,
    open_store,
    pack_run,
    put_run,
    read_history,
    read_run,
    read_weights,
    remaining_loss,
    save_run,
)
