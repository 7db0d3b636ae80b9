"""`predict`: predict image files with stored runs."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from core.analysis.contest import default_networks
from core.data.uploads import Upload
from core.errors import BadRequest, CorruptRun, WeightsUnavailable
from core.explain.overlay import overlay
from core.files import sha256_of
from core.inference import Case, NetworkResult
from core.inference.analyze import Network, Settings, analyze
from core.inference.image_check import ImageChecker, open_image_checker
from core.inference.predictor import Predictor
from core.inference.sentences import threshold_of
from core.paths import DEVICES, pick_device
from core.runs import Run, find_run, open_store
from trainer.progress import print_status
from trainer.reporting.run_lines import print_row

OPACITY = 0.6


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--dataset",
        default="kermany",
        help="data set whose task is predicted, by the networks that Diagnose shows first",
    )
    which.add_argument("--run", help="one stored run")
    parser.add_argument("--cam", type=Path, metavar="FOLDER", help="write Grad-CAM overlays to a folder")
    parser.add_argument(
        "--despite-image-check",
        action="store_true",
        help="also predict images that the image check refuses, and mark them",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", choices=DEVICES, default="cpu")


def run(arguments: argparse.Namespace) -> int:
    """Predict each image, by default without those that the image check refuses; return 1 if none was predicted."""
    device = pick_device(arguments.device)
    chosen = (
        [find_run(arguments.run)] if arguments.run else list(default_networks(open_store(), arguments.dataset).values())
    )
    networks = _load_networks(chosen, device)
    if not networks:
        if arguments.run:
            raise BadRequest(f"The network of {arguments.run} cannot be loaded for the reason printed above.")
        raise BadRequest(f"No run with weights is stored for {arguments.dataset}; train one with curve first.")
    image_checker = _image_checker(chosen, arguments.despite_image_check)
    settings = Settings(networks, image_checker, "grad-cam" if arguments.cam else None)
    predicted = 0
    for path in arguments.images:
        upload = _read(path)
        case = analyze(upload, settings, arguments.despite_image_check)
        if case.problem:
            print_row({"image": str(path), "error": case.problem}, f"{path}: {case.problem}", arguments.json)
        elif case.check and not case.results:
            reasons = " ".join(case.check.reasons)
            refusal = {"image": str(path), "refused": reasons}
            print_row(refusal, f"{path}: refused by the image check: {reasons}", arguments.json)
        predicted += bool(case.results)
        for result in case.results.values():
            row = _row(path, case, result)
            if arguments.cam:
                row |= _write_overlay(arguments.cam, path, upload, result)
            line = f"{path}: {row['model']}: {row['label']} {row['probability']:.3f}, decision {row['decision']}"
            line += f"  [{row['variant']}]" if row["variant"] else ""
            line += f"  (LEAKS ALLOWED in training: {row['leaks']} images)" if row["leaks"] else ""
            line += "  (REFUSED by the image check)" if case.rejected else ""
            print_row(row, line, arguments.json)
    return 0 if predicted else 1


def _read(path: Path) -> Upload:
    try:
        return Upload(str(path), path.read_bytes())
    except OSError:
        return Upload(str(path), problem="The file cannot be opened.")


def _image_checker(chosen: list[Run], overridden: bool) -> ImageChecker | None:
    """Return the image check stored next to the runs, which are of one data set; None if there is none.

    Raises:
        CorruptRun: if it is damaged or was made from other images than the runs, unless it is overridden.
        WeightsUnavailable: if its encoder's weights are not available, unless it is overridden.
    """
    folder = chosen[0].folder.parent
    try:
        image_checker = open_image_checker(folder, {meta.fingerprint for _, meta in chosen})
    except (CorruptRun, WeightsUnavailable) as error:
        if not overridden:
            raise
        print_status(f"images are not checked: {error}")
        return None
    if image_checker is None:
        print_status(f"{folder.name} has no image check: images are not checked")
    return image_checker


def _load_networks(chosen: list[Run], device: torch.device) -> dict[str, Network]:
    loaded = {}
    for run in chosen:
        try:
            loaded[run.folder] = Predictor(run.folder, device)
        except (CorruptRun, WeightsUnavailable) as error:
            print(f"left out: {run.meta.run}: {error}", file=sys.stderr)
    return {run.meta.family: Network([run], lambda run: loaded[run.folder]) for run in chosen if run.folder in loaded}


def _row(path: Path, case: Case, result: NetworkResult) -> dict[str, Any]:
    """Return a prediction as plain values.

    Raises:
        BadRequest: if the network gave no prediction.
    """
    meta, prediction = result.meta, result.prediction
    if prediction is None:
        raise BadRequest(f"{meta.run}: {result.problem}")
    target = prediction.target
    return {
        "image": str(path),
        "model": meta.model,
        "family": meta.family,
        "label": meta.labels[target],
        "probability": round(float(prediction.probabilities[target]), 4),
        "threshold": threshold_of(meta, target),
        "decision": "|".join(meta.labels[index] for index in prediction.decided) or "no finding",
        "run": meta.run,
        "variant": meta.variant,
        "leaks": meta.leaks,
        "image_check": None if case.check is None else "admitted" if case.check.admitted else "refused",
    }


def _write_overlay(folder: Path, path: Path, upload: Upload, result: NetworkResult) -> dict[str, Any]:
    assert result.explanation is not None
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.stem}-{sha256_of([upload.content])[:8]}-{result.meta.run}.png"
    overlay(upload.decode(), result.explanation, OPACITY).save(target)
    return {"cam": str(target), "no_evidence": result.explanation.degenerate}
