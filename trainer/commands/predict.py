"""`predict`: predict image files with stored runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from core.data.images import decode
from core.errors import BadRequest, CorruptRun, UnknownName, UnreadableImage, WeightsUnavailable
from core.explain.overlay import overlay
from core.files import sha256_of
from core.inference.input_gate import CheckResult, Gatekeeper, open_gate
from core.inference.predictor import Prediction, Predictor
from core.paths import DEVICES, pick_device
from core.runs import Run, RunMeta, open_store
from core.runs.selection import default_runs
from trainer.progress import print_status

OPACITY = 0.6


def find_run(name: str) -> Run:
    """Return a stored run by its name.

    Raises:
        BadRequest: if its training failed.
        CorruptRun: if it is damaged.
        UnknownName: if there is none.
    """
    store = open_store()
    folder = store.folder_of(name)
    if folder is None:
        if failed := next((meta for meta in store.failed.values() if meta.run == name), None):
            raise BadRequest(f"The training of the run {name} failed: {failed.failed}")
        for folder_name, why in store.problems.items():
            if folder_name.endswith(f"/{name}"):
                raise CorruptRun(f"The run {name} is damaged: {why}.")
        raise UnknownName(f"There is no run named {name!r} in the store; see python -m trainer results.")
    return Run(folder, store.runs[folder])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--dataset", default="kermany", help="data set whose task is predicted, by the best stored run of each family"
    )
    which.add_argument("--run", help="one stored run")
    parser.add_argument("--cam", type=Path, metavar="FOLDER", help="write Grad-CAM overlays to a folder")
    parser.add_argument(
        "--despite-gate", action="store_true", help="predict images that the input gate refuses, too, and mark them"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """Predict each image; return 1 if none was predicted. Images that the gate refuses are not, unless requested."""
    device = pick_device(arguments.device)
    chosen = (
        [find_run(arguments.run)] if arguments.run else list(default_runs(open_store(), arguments.dataset).values())
    )
    predictors = _load_predictors(chosen, device)
    if not predictors:
        raise BadRequest(f"No run with weights is stored for {arguments.dataset}; train one with curve first.")
    gate = _load_gate(chosen, arguments.despite_gate)
    predicted = 0
    for path in arguments.images:
        try:
            content = path.read_bytes()
            image = decode(content)
        except (UnreadableImage, OSError) as error:
            why = str(error) if isinstance(error, UnreadableImage) else "The file cannot be opened."
            _print(arguments, {"image": str(path), "error": why}, f"{path}: {why}")
            continue
        check = gate(image) if gate else None
        if check and not check.admitted and not arguments.despite_gate:
            reasons = " ".join(check.reasons)
            _print(arguments, {"image": str(path), "refused": reasons}, f"{path}: refused by the input gate: {reasons}")
            continue
        predicted += 1
        for predictor in predictors:
            prediction = predictor([image], "grad-cam" if arguments.cam else None)[0]
            meta = predictor.meta
            row = _row(path, meta, prediction, check)
            if arguments.cam:
                row |= _write_overlay(arguments.cam, path, content, meta, image, prediction)
            line = f"{path}: {row['model']}: {row['label']} {row['probability']:.3f}, decision {row['decision']}"
            line += f"  [{meta.variant}]" if meta.variant else ""
            line += f"  (LEAKS ALLOWED in training: {meta.leaks} images)" if meta.leaks else ""
            line += "  (REFUSED by the input gate)" if check and not check.admitted else ""
            _print(arguments, row, line)
    return 0 if predicted else 1


def _print(arguments: argparse.Namespace, row: dict[str, Any], line: str) -> None:
    print(json.dumps(row) if arguments.json else line, flush=True)


def _load_gate(chosen: list[Run], despite: bool) -> Gatekeeper | None:
    """Load the input gate of the runs' data set; None if it has none.

    Args:
        chosen: runs of one data set.
        despite: whether a gate that cannot be used is ignored.
    Raises:
        CorruptRun: if the gate is damaged or was made from other images than the runs.
        WeightsUnavailable: if the weights of its encoder are not installed.
    """
    folder = chosen[0][0].parent
    try:
        gate = open_gate(folder, {meta.fingerprint for _, meta in chosen})
    except (CorruptRun, WeightsUnavailable) as error:
        if not despite:
            raise
        print_status(f"images are not checked: {error}")
        return None
    if gate is None:
        print_status(f"{folder.name} has no input gate: images are not checked")
    return gate


def _load_predictors(chosen: list[Run], device: torch.device) -> list[Predictor]:
    predictors = []
    for folder, meta in chosen:
        try:
            predictors.append(Predictor(folder, device))
        except (CorruptRun, WeightsUnavailable) as error:
            print(f"left out: {meta.run}: {error}", file=sys.stderr)
    return predictors


def _row(path: Path, meta: RunMeta, prediction: Prediction, check: CheckResult | None) -> dict[str, Any]:
    target = prediction.target
    threshold = meta.thresholds[target] if meta.multilabel else meta.threshold if meta.positive is not None else None
    return {
        "image": str(path),
        "model": meta.model,
        "family": meta.family,
        "label": meta.labels[target],
        "probability": round(float(prediction.probabilities[target]), 4),
        "threshold": threshold,
        "decision": "|".join(meta.labels[label] for label in prediction.decided) or "no finding",
        "run": meta.run,
        "variant": meta.variant,
        "leaks": meta.leaks,
        "gate": None if check is None else "admitted" if check.admitted else "refused",
    }


def _write_overlay(
    folder: Path, path: Path, content: bytes, meta: RunMeta, image: Image.Image, prediction: Prediction
) -> dict[str, Any]:
    assert prediction.explanation is not None
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{path.stem}-{sha256_of([content])[:8]}-{meta.run}.png"
    overlay(image, prediction.explanation, OPACITY).save(file)
    return {"cam": str(file), "no_evidence": prediction.explanation.degenerate}
