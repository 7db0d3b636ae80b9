"""Embeddings by the encoder engine against eager PyTorch, EfficientNet-Lite0 and DINOv2-S: pair 4.

Both sides embed the same images, in batches of 32. DINOv2-S spends its time in matrix products; its limit is the time
that PyTorch takes for as many operations in the largest matrix product of a block, and nothing else. The quality is
that of a logistic regression fitted to eager embeddings: its AUROC on the other half of the images, from either side's
embeddings.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Measured, Pair, Row, Side, Values, calling, rate
from core.data.image_cache import open_bank
from core.data.specs import find_dataset, list_images
from core.data.transforms import normalize, to_unit
from core.models import MODELS
from core.models.classifier import Classifier
from core.models.onnx_engine import TOLERANCE, difference, embed_eagerly, embedder

TRANSFORMER = "generic-dinov2-vits14-imgfocus"
NETWORKS = ("imagenet-efficientnet-lite0", TRANSFORMER)
TOKENS, WIDTH = 257, 384  # of DINOv2-S at 224 pixels
SAME = 0.0005  # AUROC
BATCH = 32
OURS, EAGER, CHANNELS_LAST = "encoder engine", "eager PyTorch", "eager PyTorch, channels last"
LIMIT = "matrix products alone"
Embed = Callable[[torch.Tensor], np.ndarray]


def sides(quick: bool, folder: Path) -> Mapping[str, Side]:
    """Return the engine and eager PyTorch for each network; building the engine's graph is not timed."""
    listing = list_images(find_dataset("phantom" if quick else "kermany"))
    per_class = 4 if quick else 150
    random = np.random.default_rng(0)
    chosen = np.concatenate([random.permutation(np.flatnonzero(listing.labels == c))[:per_class] for c in (0, 1)])
    listing = listing.subset(random.permutation(chosen))
    made: dict[str, Side] = {}
    for name in NETWORKS[:1] if quick else NETWORKS:
        spec = MODELS[name]
        images = normalize(to_unit(open_bank(listing, spec.image.size, 1).images), spec.image)
        plain, model = (spec.build(2, "", 0).eval() for _ in range(2))

        def eager(batch: torch.Tensor, model: Classifier = plain) -> np.ndarray:
            with torch.no_grad():
                return np.asarray(model.embed(batch).numpy())

        ways: dict[str, Embed] = {
            OURS: embedder(model, name, torch.device("cpu")), EAGER: eager,
            CHANNELS_LAST: partial(embed_eagerly, model, device=torch.device("cpu")),
        }  # fmt: skip
        reference = embed_all(eager, images)
        for side, embed in ways.items():
            quality = quality_of(embed_all(embed, images), reference, listing.labels)
            made[f"{name}: {side}"] = calling(partial(embed_all, embed, images), images=len(images), **quality)
        if name == TRANSFORMER:
            with FlopCounterMode(display=False) as counter:
                eager(images[:1])
            operations = counter.get_total_flops() * len(images)
            made[f"{name}: {LIMIT}"] = calling(partial(multiply, operations), images=len(images))
    return made


def multiply(operations: int) -> None:
    """Spend floating-point operations in the product of tokens of 8 images, (2056, 384), and weights, (384, 1536)."""
    tokens, weights = torch.randn(8 * TOKENS, WIDTH), torch.randn(WIDTH, 4 * WIDTH)
    for _ in range(round(operations / (2 * tokens.numel() * weights.shape[1]))):
        tokens @ weights


def embed_all(embed: Embed, images: torch.Tensor) -> np.ndarray:
    """Embed images in batches: (n, 3, S, S) -> (n, D)."""
    return np.concatenate([embed(batch) for batch in images.split(BATCH)])


def quality_of(embeddings: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Values:
    """Return the distance from the reference, and the AUROC of a head that was fitted to the reference."""
    half = len(labels) // 2
    head = LogisticRegression(max_iter=2000).fit(reference[:half], labels[:half])
    scores = head.decision_function(embeddings[half:])
    return {"difference": difference(embeddings, reference), "auroc": float(roc_auc_score(labels[half:], scores))}


def rows(measured: Measured) -> list[Row]:
    """Return the images per second of each network against eager PyTorch in both memory formats."""
    made = []
    for name in (name for name in NETWORKS if f"{name}: {OURS}" in measured):
        for peer in (EAGER, CHANNELS_LAST):
            side, other = f"{name}: {OURS}", f"{name}: {peer}"
            ours, theirs = measured[side][0], measured[other][0]
            note = f"embeddings differ by {ours['difference']:.0e}; AUROC {ours['auroc']:.4f} and {theirs['auroc']:.4f}"
            same = ours["difference"] <= TOLERANCE and abs(ours["auroc"] - theirs["auroc"]) <= SAME
            what = f"Embeddings, {MODELS[name].title}, against {peer}"
            figures = rate(measured, side), rate(measured, other)
            limit = rate(measured, f"{name}: {LIMIT}") if f"{name}: {LIMIT}" in measured else None
            note += f"; limit: {LIMIT}" if limit else ""
            made.append(Row(what, "images/s", *figures, limit, least_ratio=1.4, same_quality=same, note=note))
    return made


PAIR = Pair("encoder-engine", "Embeddings of a frozen encoder", 10, sides, rows)
