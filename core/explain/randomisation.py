"""Does a heatmap depend on what the network learnt? Weights are made random from the head down, and maps compared.

A map that stays as it was when the weights go shows the image, not the network. Rank correlation says how alike two
maps are; that between maps of different images, by the trained network, says how alike maps are that have nothing to do
with each other. Where evidence was planted, it is also counted how often a map peaks on it.

References:
    Adebayo et al. 2018, Sanity checks for saliency maps, arXiv:1810.03292 (cascading randomisation). Weights are drawn
    as in He et al. 2015, arXiv:1502.01852, and normalisation by batches takes the statistics of the images explained:
    without both, the maps of a deep random network are flat, and prove nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from scipy.ndimage import distance_transform_edt
from torch import nn

from core.explain.methods import EXPLAINERS, Explanation, Question, explain
from core.models.classifier import Classifier, channels_last

STEPS = ("the head", "and the last third of the encoder", "and its middle third", "every layer")
IMAGES, DRAWS = 20, 3
CHECKED = "grad-cam"  # whose maps are compared with those of random weights
POINTING = (CHECKED, "hires-cam", "hires-cam-shifted")  # it is counted how often these peak on planted evidence
_MEASURED = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Alike:
    """How alike the maps of a trained network are to others, as a rank correlation.

    Attributes:
        value: mean over images.
        low, high: 95% interval over images; NaN for fewer than two.
        flat: share of the others that are flat, which say nothing and do not count.
    """

    value: float
    low: float
    high: float
    flat: float


@dataclass(frozen=True)
class Planted:
    """How many maps peak on planted evidence, or within half a cell of their feature map of it. Flat ones do not.

    Attributes:
        hits, of: by the trained network.
        random_hits, random_of: with every layer random.
        elsewhere: how often, as a share, the maps with every layer random count on the evidence of another image: maps
            and evidence both have their usual places, and so meet by chance, without either knowing the other.
    """

    hits: int
    of: int
    random_hits: int
    random_of: int
    elsewhere: float


@dataclass(frozen=True)
class Randomised:
    """What becomes of a network's maps when its weights are made random.

    Attributes:
        images: explained, each of another patient.
        draws: of random weights.
        steps: for each of `STEPS` how alike the maps are to the trained ones.
        others: the same for maps of different images by the trained network.
        planted: by explainer, where evidence was planted; empty elsewhere.
    """

    images: int
    draws: int
    steps: tuple[Alike, ...]
    others: Alike
    planted: Mapping[str, Planted] = field(default_factory=dict)


def randomise(layer: nn.Module, random: torch.Generator) -> None:
    """Draws a layer's own weights anew; one that normalises by batches takes the statistics of what it is given."""
    for value in layer.parameters(recurse=False):
        if value.ndim > 1:
            fan_in = value[0].numel()
            drawn = torch.randn(value.shape, generator=random) * (2 / fan_in) ** 0.5
            value.data.copy_(drawn)
        else:
            nn.init.zeros_(value)
    scale = getattr(layer, "weight", None)
    if isinstance(scale, torch.Tensor) and scale.ndim == 1:
        nn.init.ones_(scale)
    if isinstance(layer, _MEASURED):
        layer.train()


def from_the_head_down(model: Classifier) -> list[list[nn.Module]]:
    """The layers that have weights, in the order in which they are made random, a list for each of `STEPS`."""
    encoder, head = ([one for one in part.modules() if _has_own(one)] for part in (model.encoder, model.head))
    thirds = np.array_split(np.arange(len(encoder))[::-1], len(STEPS) - 1)
    return [head[::-1], *([encoder[place] for place in third] for third in thirds)]


def _has_own(layer: nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None


def rank_correlation(first: Explanation, second: Explanation) -> float:
    """Spearman's, between the places of two maps; NaN if one is flat."""
    if first.degenerate or second.degenerate:
        return float("nan")
    ranks = [stats.rankdata(one.heat, axis=None) for one in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def near(evidence: np.ndarray, reach: float) -> np.ndarray:
    """Where evidence is, or is near.

    Args:
        evidence: (H, W) bool, True where it is.
        reach: how far from it still counts, as a share of the side.
    """
    return np.asarray(distance_transform_edt(~evidence) <= reach * evidence.shape[0])


def peaks_on(explanation: Explanation, where: np.ndarray) -> bool:
    """Whether the largest value of a map of the whole image lies where (H, W) bool is True; never for a flat map."""
    if explanation.degenerate:
        return False
    place = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
    there = tuple(
        int((one + 0.5) / size * side)
        for one, size, side in zip(place, explanation.heat.shape, where.shape, strict=True)
    )
    return bool(where[there])


def check_randomised(
    model: Classifier,
    images: torch.Tensor,
    targets: Sequence[int],
    draws: int = DRAWS,
    evidence: Sequence[np.ndarray] | None = None,
) -> Randomised:
    """Compares Grad-CAM of a trained network with Grad-CAM of the same network, its weights random from the head down.

    Args:
        model: the trained network, in evaluation mode; it stays as it is.
        images: (B, C, S, S), normalised, at least two; those of volumes with one dimension more.
        targets: the class explained of each, the same for trained and random weights.
        draws: how often weights are drawn.
        evidence: (H, W) bool for each image, where the evidence lies; None where nobody knows.
    """
    trained = _maps(model, images, targets)
    everywhere = []
    by_step: list[list[list[Explanation]]] = [[] for _ in STEPS]
    for draw in range(draws):
        changed = copy.deepcopy(model)
        random = torch.Generator().manual_seed(draw)
        for step, layers in enumerate(from_the_head_down(changed)):
            for layer in layers:
                randomise(layer, random)
            by_step[step].append(_maps(changed, images, targets))
        if evidence is not None:
            everywhere.append(changed)
    steps = tuple(_alike(trained, maps) for maps in by_step)
    others = _alike(trained, [trained[shift:] + trained[:shift] for shift in (1, 2, 3) if shift < len(trained)])
    planted = {}
    if evidence is not None:
        asked = _asked(model, images, targets)
        for name in POINTING:
            if name == CHECKED:
                planted[name] = _on_planted(trained, by_step[-1], evidence)
            elif not EXPLAINERS[name].refuses(asked):
                random_maps = [_maps(one, images, targets, name) for one in everywhere]
                planted[name] = _on_planted(_maps(model, images, targets, name), random_maps, evidence)
    return Randomised(len(trained), draws, steps, others, planted)


def _on_planted(
    trained: list[Explanation], by_draw: list[list[Explanation]], evidence: Sequence[np.ndarray]
) -> Planted:
    counts = [near(where, trained[0].cell / 2) for where in evidence]
    hits = [peaks_on(one, where) for one, where in zip(trained, counts, strict=True)]
    random = np.array([[[peaks_on(one, where) for where in counts] for one in maps] for maps in by_draw])
    own = np.eye(len(counts), dtype=bool)
    return Planted(sum(hits), len(hits), int(random[:, own].sum()), random[:, own].size, float(random[:, ~own].mean()))


def _asked(model: Classifier, images: torch.Tensor, targets: Sequence[int]) -> Question:
    with torch.no_grad():
        features = model.encoder(channels_last(images))
    return Question(model, images, features, torch.as_tensor(targets, device=images.device))


def _maps(model: Classifier, images: torch.Tensor, targets: Sequence[int], name: str = CHECKED) -> list[Explanation]:
    return explain(EXPLAINERS[name], _asked(model, images, targets))


def _alike(trained: list[Explanation], others: list[list[Explanation]]) -> Alike:
    """Mean over the others, image by image, then over images."""
    every = np.array([[rank_correlation(*pair) for pair in zip(trained, maps, strict=True)] for maps in others])
    flat = float(np.mean([one.degenerate for maps in others for one in maps]))
    known = ~np.isnan(every)
    has = known.any(axis=0)
    by_image = np.nansum(every, axis=0)[has] / known.sum(axis=0)[has]
    if len(by_image) < 2:
        value = float(by_image[0]) if len(by_image) else float("nan")
        return Alike(value, float("nan"), float("nan"), flat)
    ends = stats.bootstrap((by_image,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return Alike(float(by_image.mean()), float(ends.low), float(ends.high), flat)
