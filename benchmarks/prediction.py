"""Prediction and Grad-CAM of one image by three networks, against captum the usual way and grad-cam: pair 3.

The usual way predicts first and then explains: two passes through the encoder, whose weights may be trained. Lowshot
explains from the features of the prediction. The limit is Lowshot's prediction without heatmaps.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Measured, Pair, Row, Side, calling, middle
from core.analysis.contest import default_networks
from core.data.images import decode, to_array
from core.data.transforms import normalize, to_unit
from core.errors import DataUnavailable
from core.inference.predictor import Predictor, image_spec_of, load_classifier
from core.paths import PROJECT
from core.runs import RunMeta, open_store

SAME = 1e-4  # of the map's peak
PASSES = 10  # of the three networks in a turn
OURS, FORWARD, CAPTUM, GRAD_CAM = "Lowshot", "prediction alone", "captum", "grad-cam"


def sides(quick: bool, folder: Path) -> Mapping[str, Side]:
    """Return Lowshot and its peers on the networks that the page Diagnose shows first."""
    runs = list(default_networks(open_store(), "kermany").values())
    if not runs:
        raise DataUnavailable("No run on kermany with weights is stored. Set LOWSHOT_RUNS to checkpoints/ of Lowshot.")
    picture = decode(next((PROJECT / "examples" / "kermany").glob("*.jpeg")).read_bytes())
    predictors = [Predictor(run) for run, _ in runs]
    networks = [(meta, load_classifier(meta, run).requires_grad_(True)) for run, meta in runs]

    def inputs(meta: RunMeta) -> torch.Tensor:
        pixels = to_array(picture, (meta.size, meta.size), meta.channels)
        return normalize(to_unit(pixels[None]), image_spec_of(meta))

    def ours() -> list[np.ndarray]:
        predictions = [predictor([picture], "grad-cam")[0] for predictor in predictors]
        return [prediction.explanation.heat for prediction in predictions if prediction.explanation]

    def forward() -> list[object]:
        return [predictor([picture]) for predictor in predictors]

    def usual(explain: Callable[[nn.Module, torch.Tensor, int], np.ndarray]) -> list[np.ndarray]:
        heatmaps = []
        for meta, model in networks:
            images = inputs(meta)
            with torch.no_grad():
                probabilities = model(images).softmax(dim=1)
            target = int(probabilities.argmax()) if meta.positive is None else meta.positive
            heatmaps.append(explain(model, images, target))
        return heatmaps

    maps = ours()
    peers = {CAPTUM: partial(usual, with_captum), GRAD_CAM: partial(usual, with_grad_cam)}
    differences = {name: largest_difference(maps, peer()) for name, peer in peers.items()}

    def passes(compute: Callable[[], object]) -> None:
        for _ in range(1 if quick else PASSES):
            compute()

    ways: dict[str, Callable[[], object]] = {OURS: ours, FORWARD: forward, **peers}
    return {
        name: calling(
            partial(passes, compute), passes=1 if quick else PASSES, networks=len(runs),
            difference=differences.get(name, 0.0),
        )
        for name, compute in ways.items()
    }  # fmt: skip


def with_captum(model: nn.Module, images: torch.Tensor, target: int) -> np.ndarray:
    """Return Grad-CAM of the whole network at the encoder's output, (S, S), by captum."""
    from captum.attr import LayerAttribution, LayerGradCam

    heat = LayerGradCam(model, model.encoder).attribute(images, target, relu_attributions=True)
    large = LayerAttribution.interpolate(heat, tuple(images.shape[2:]), "bilinear")
    return large[0, 0].detach().numpy()


def with_grad_cam(model: nn.Module, images: torch.Tensor, target: int) -> np.ndarray:
    """Return Grad-CAM at the encoder's output, (S, S) in [0, 1], by the package grad-cam."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=model, target_layers=[model.encoder]) as method:
        return np.asarray(method(input_tensor=images, targets=[ClassifierOutputTarget(target)])[0])


def largest_difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Return the largest difference of heatmaps, each stretched to [0, 1] as the package grad-cam returns them."""
    pairs = [[(heat - heat.min()) / np.ptp(heat) for heat in pair] for pair in zip(ours, theirs, strict=True)]
    return float(max(np.abs(first - second).max() for first, second in pairs))


def rows(measured: Measured) -> list[Row]:
    """Return the seconds for one image against each peer."""

    def seconds(side: str) -> float:
        return middle(measured, side) / measured[side][0]["passes"]

    return [
        Row(
            f"Prediction and Grad-CAM of {measured[OURS][0]['networks']} networks on one image, against {peer}", "s",
            seconds(OURS), seconds(peer), seconds(FORWARD), least_ratio=2,
            same_quality=measured[peer][0]["difference"] <= SAME,
            note=f"largest difference of heatmaps {measured[peer][0]['difference']:.0e} of the peak; limit: no "
            "heatmaps",
        )
        for peer in (CAPTUM, GRAD_CAM)
    ]  # fmt: skip


PAIR = Pair("prediction", "Prediction and heatmap of one image", 2, sides, rows, needs=("grad-cam",))
