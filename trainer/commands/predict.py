"""Asking stored runs from the command line: `predict`, and finding the run that is meant."""

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
from core.runs import RunMeta, open_store
from core.runs.selection import default_runs
from trainer.progress import print_status

OPACITY = 0.6


def find_run(name: str) -> tuple[Path, RunMeta]:
    """A stored run by its name.

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
        for place, why in store.problems.items():
            if place.endswith(f"/{name}"):
                raise CorruptRun(f"The run {name} is damaged: {why}.")
        raise UnknownName(f"There is no run named {name!r} in the store; see python -m trainer results.")
    return folder, store.runs[folder]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--dataset", default="kermany", help="task; the best stored run of each family answers")
    which.add_argument("--run", help="one stored run")
    parser.add_argument("--cam", type=Path, metavar="FOLDER", help="write Grad-CAM overlays there")
    parser.add_argument(
        "--despite-gate", action="store_true", help="answer pictures that the input gate refuses, too, and say so"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`predict`: 1 only if no image was answered. What the input gate refuses is not, unless asked for all the same."""
    device = pick_device(arguments.device)
    chosen = (
        [find_run(arguments.run)] if arguments.run else list(default_runs(open_store(), arguments.dataset).values())
    )
    predictors = _ready(chosen, device)
    if not predictors:
        raise BadRequest(f"No run with weights answers for {arguments.dataset}; train one with curve first.")
    keeper = _keeper(chosen, arguments.despite_gate)
    answered = 0
    for path in arguments.images:
        try:
            content = path.read_bytes()
            image = decode(content)
        except (UnreadableImage, OSError) as error:
            why = str(error) if isinstance(error, UnreadableImage) else "The file cannot be opened."
            _say(arguments, {"image": str(path), "error": why}, f"{path}: {why}")
            continue
        admission = keeper(image) if keeper else None
        if admission and not admission.admitted and not arguments.despite_gate:
            reasons = " ".join(admission.reasons)
            _say(arguments, {"image": str(path), "refused": reasons}, f"{path}: refused by the input gate: {reasons}")
            continue
        answered += 1
        for predictor in predictors:
            prediction = predictor([image], "grad-cam" if arguments.cam else None)[0]
            row = _row(path, predictor.meta, prediction, admission)
            if arguments.cam:
                row |= _write_overlay(arguments.cam, path, content, predictor.meta, image, prediction)
            said = f"{path}: {row['model']}: {row['label']} {row['probability']:.3f}, decided {row['decision']}"
            said += f"  [{meta.variant}]" if (meta := predictor.meta).variant else ""
            said += f"  (LEAKS ALLOWED in training: {meta.leaks} images)" if meta.leaks else ""
            said += "  (REFUSED by the input gate)" if admission and not admission.admitted else ""
            _say(arguments, row, said)
    return 0 if answered else 1


def _say(arguments: argparse.Namespace, row: dict[str, Any], said: str) -> None:
    print(json.dumps(row) if arguments.json else said, flush=True)


def _keeper(chosen: list[tuple[Path, RunMeta]], despite: bool) -> Gatekeeper | None:
    """The gate beside the runs that are asked, which are of one data set; None where none was made.

    Raises:
        CorruptRun: if it is damaged, or made from other images than the runs, and answers do not go past it anyhow.
        WeightsUnavailable: likewise, if its encoder cannot be had.
    """
    folder = chosen[0][0].parent
    try:
        keeper = open_gate(folder, {meta.fingerprint for _, meta in chosen})
    except (CorruptRun, WeightsUnavailable) as error:
        if not despite:
            raise
        print_status(f"pictures are not checked: {error}")
        return None
    if keeper is None:
        print_status(f"no input gate was made for {folder.name}: any picture is answered, whatever it shows")
    return keeper


def _ready(chosen: list[tuple[Path, RunMeta]], device: torch.device) -> list[Predictor]:
    found = []
    for folder, meta in chosen:
        try:
            found.append(Predictor(folder, device))
        except (CorruptRun, WeightsUnavailable) as error:
            print(f"left out: {meta.run}: {error}", file=sys.stderr)
    return found


def _row(path: Path, meta: RunMeta, prediction: Prediction, admission: CheckResult | None) -> dict[str, Any]:
    shown = prediction.target
    threshold = meta.thresholds[shown] if meta.multilabel else meta.threshold if meta.positive is not None else None
    return {
        "image": str(path),
        "model": meta.model,
        "family": meta.family,
        "label": meta.labels[shown],
        "probability": round(float(prediction.probabilities[shown]), 4),
        "threshold": threshold,
        "decision": "|".join(meta.labels[one] for one in prediction.decided) or "no finding",
        "run": meta.run,
        "variant": meta.variant,
        "leaks": meta.leaks,
        "gate": None if admission is None else "admitted" if admission.admitted else "refused",
    }


def _write_overlay(
    folder: Path, path: Path, content: bytes, meta: RunMeta, image: Image.Image, prediction: Prediction
) -> dict[str, Any]:
    assert prediction.explanation is not None
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.stem}-{sha256_of([content])[:8]}-{meta.run}.png"
    overlay(image, prediction.explanation, OPACITY).save(target)
    return {"cam": str(target), "no_evidence": prediction.explanation.degenerate}
