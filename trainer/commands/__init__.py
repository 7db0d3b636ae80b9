"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np

from core.data import DATASETS
from core.data.augmentation import AUGMENTATIONS, PRESETS
from core.data.dataset import load_dataset
from core.data.preprocessing import PREPROCESSING
from core.data.specs import family_of, find_dataset, is_present
from core.errors import BadRequest, CorruptRun
from core.metrics import METRICS, bootstrap
from core.models.specs import by_family
from core.models.weights import state_of
from core.paths import pick_device
from core.runs import Predictions, RunMeta, as_stored, open_store, read_predictions
from core.runs.series import by_series, scores_of
from trainer.commands.ablate import ablate
from trainer.commands.bench import bench
from trainer.commands.calibrate import calibrate_runs
from trainer.commands.curve import curve, run
from trainer.commands.data import audit, data_get, data_list
from trainer.commands.export import export
from trainer.commands.gate import gate
from trainer.commands.list import catalogue
from trainer.commands.predict import find_run, predict
from trainer.commands.pretrain import pretrain
from trainer.commands.report import report
from trainer.commands.sanity import sanity
from trainer.commands.search import search
from trainer.commands.shortcuts import shortcuts
from trainer.commands.subgroups import subgroups
from trainer.commands.tune import tune
from trainer.commands.weights import describe, weights_convert, weights_get, weights_list
from trainer.progress import bar, say
from trainer.reporting.document_tables import print_runs, write_tables
from trainer.training.class_balance import IMBALANCE
from trainer.training.losses import LOSSES
from trainer.training.optimizers import OPTIMISERS, SCHEDULES
from trainer.training.run_plan import strategies_of
from trainer.training.strategies import STRATEGIES


def list_all(arguments: argparse.Namespace) -> int:
    """`list`."""
    if arguments.json:
        for entry in catalogue():
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
    print("Strategies")
    for strategy in STRATEGIES.values():
        print(f"  {strategy.name:28} {strategy.meaning}")
    print("Augmentations (--augment, several joined by +)")
    for name, parts in PRESETS.items():
        print(f"  {name:28} {', '.join(parts) or 'images as they are'}")
    for augmentation in AUGMENTATIONS.values():
        print(f"  {augmentation.name:28} {augmentation.ranges}. {augmentation.caveat}")
    print("Preprocessing (--preparation, several joined by +)")
    for step in PREPROCESSING.values():
        print(f"  {step.name:28} {step.meaning} {step.caveat}")
    for title, rows in (
        ("Imbalance (--imbalance)", IMBALANCE),
        ("Losses (--loss); class-weighted: --imbalance class-weights", LOSSES),
        ("Optimisers (--optimizer)", OPTIMISERS),
        ("Schedules of the learning rate (--schedule)", SCHEDULES),
    ):
        print(title)
        for row in rows.values():
            print(f"  {row.name:28} {row.meaning}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """`evaluate`."""
    from trainer.training.run_cell import ask_again

    folder, meta = find_run(arguments.run)
    if family_of(meta.dataset) not in DATASETS:
        raise BadRequest(f"{meta.dataset} is not a registered data set; its test images cannot be found again.")
    dataset = load_dataset(find_dataset(meta.dataset), allow_leaks=meta.leaks > 0)
    if not meta.has_weights:
        raise CorruptRun(f"The run {meta.run} keeps no weights. Remove its folder {folder} and run it again.")
    with bar("evaluating") as show:
        logits = ask_again(folder, meta, dataset, dataset.parts.test, pick_device(arguments.device), show)
    stored = read_predictions(folder)
    scores = scores_of(meta, replace(stored, logits=logits))
    estimates = bootstrap([scores], stored.groups)
    if meta.leaks:
        say(f"LEAKS ALLOWED: {meta.leaks} training or validation images cross; these figures are too good.")
    if arguments.json:
        print(
            json.dumps(
                {
                    "run": meta.run,
                    "variant": meta.variant,
                    "leaks": meta.leaks,
                    "metrics": {name: asdict(e) for name, e in estimates.items()},
                }
            )
        )
    else:
        for name, e in estimates.items():
            over = f"95% interval over test patients {e.low:.3f} to {e.high:.3f}"
            print(f"{METRICS[name].title:26} {e.value:.3f}  ({over}, n = {e.n})")
    say(f"Largest difference from a stored logit: {_moved(logits, stored, meta):.6f}")
    return 0


def _moved(logits: np.ndarray, stored: Predictions, meta: RunMeta) -> float:
    return float(np.abs(logits - as_stored(stored.logits, meta.multilabel)).max())


def results(arguments: argparse.Namespace) -> int:
    """`results`."""
    store = open_store()
    for place, why in store.problems.items():
        say(f"left out: {place}: {why}")
    if arguments.write:
        changed = write_tables(arguments.write, store)
        say(f"{arguments.write}: {'tables written anew' if changed else 'tables were up to date'}")
        return 0
    metas = [meta for group in by_series(store.metas(arguments.dataset)).values() for meta in group]
    print_runs(metas, arguments.json)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_all,
    "run": run,
    "curve": curve,
    "ablate": ablate,
    "search": search,
    "tune": tune,
    "gate": gate,
    "sanity": sanity,
    "subgroups": subgroups,
    "bench": bench,
    "pretrain": pretrain,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "audit": audit,
    "data list": data_list,
    "data get": data_get,
    "report": report,
    "shortcuts": shortcuts,
    "calibrate": calibrate_runs,
    "results": results,
    "weights list": weights_list,
    "weights get": weights_get,
    "weights convert-xrv": weights_convert,
    "describe": describe,
}
