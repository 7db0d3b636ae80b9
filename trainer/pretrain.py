"""Further pretraining of the ImageNet encoder on the medical corpus: supervised by each set's own labels, one head a
set, and held near its start by distillation, so that what ImageNet taught is not lost.

References:
    Learning without forgetting: Li and Hoiem 2016, arXiv:1606.09282. Averaging with the start: Wortsman et al. 2022,
    arXiv:2109.01903.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from core.data.augment import augmenter
from core.data.listing import UNLABELLED
from core.data.transforms import normalise, to_unit
from core.models.encoders import TimmEncoder, imagenet_lite0_state, lite0_network
from core.types import ImageSpec
from trainer.corpus import CorpusPart
from trainer.progress import bar

_BATCH = 64
_WARM_UP = 0.1


@dataclass(frozen=True)
class Recipe:
    """How an encoder is further pretrained.

    Attributes:
        sets: the corpus.
        epochs: passes over the judging set; the other sets give as many images as `share` of it allows.
        lr: peak rate of the encoder (AdamW, warm-up and cosine); heads learn at ten times it.
        distill: weight of the cosine distance between the embeddings of the encoder and of its ImageNet start.
        average: share of the trained weights in the average with the start, in (0, 1].
        share: images from the other sets for each image of the judging set.
        size: side in pixels.
        seed: of everything random.
    """

    sets: tuple[str, ...]
    epochs: float = 4
    lr: float = 3e-4
    distill: float = 0.0
    average: float = 1.0
    share: float = 0.0
    size: int = 128
    seed: int = 0


def imagenet_encoder() -> TimmEncoder:
    """EfficientNet-Lite0 with its ImageNet weights, without its classifier."""
    network = lite0_network()
    network.load_state_dict(imagenet_lite0_state())
    network.reset_classifier(0)
    return TimmEncoder(network)


def pretrain(
    recipe: Recipe, parts: list[CorpusPart], device: torch.device
) -> tuple[TimmEncoder, list[dict[str, float]]]:
    """Trains by a recipe.

    Returns:
        the encoder in evaluation mode on the CPU, and the training curve (step, loss and its terms).
    """
    torch.manual_seed(recipe.seed)
    encoder = imagenet_encoder().to(device).to(memory_format=torch.channels_last)
    start = copy.deepcopy(encoder).eval().requires_grad_(False)
    features = int(encoder.network.num_features)
    heads = nn.ModuleList(nn.Linear(features, len(part.spec.labels)) for part in parts).to(device)
    optimiser = torch.optim.AdamW(
        [{"params": encoder.parameters(), "lr": recipe.lr}, {"params": heads.parameters(), "lr": 10 * recipe.lr}],
        weight_decay=1e-4,
    )
    batches = list(_schedule(recipe, parts))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [recipe.lr, 10 * recipe.lr], total_steps=len(batches), pct_start=_WARM_UP
    )
    augment = augmenter("aggressive").apply
    seeds = np.random.default_rng(recipe.seed)
    image = ImageSpec(recipe.size)
    history: list[dict[str, float]] = []
    encoder.train()
    began = time.monotonic()
    with bar("pretraining", "batch") as show:
        for step, (which, indices) in enumerate(batches):
            part = parts[which]
            images = to_unit(part.bank.images[indices], device)
            images = normalise(augment(images, seeds.integers(0, 2**63, len(images))), image)
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                embedding = encoder(images).mean((2, 3))
                loss = supervised = _supervised_loss(
                    heads[which](F.dropout(embedding, 0.2)).float(), part.listing.labels[indices], part.spec.task
                )
                if recipe.distill:
                    with torch.no_grad():
                        wanted = start(images).mean((2, 3))
                    distance = 1 - F.cosine_similarity(embedding.float(), wanted.float()).mean()
                    loss = supervised + recipe.distill * distance
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step % 20 == 0 or step == len(batches) - 1:
                history.append(
                    {
                        "step": step,
                        "set": which,
                        "loss": round(float(loss.detach()), 4),
                        "supervised": round(float(supervised.detach()), 4),
                        "seconds": round(time.monotonic() - began, 1),
                    }
                )
            show(step + 1, len(batches))
    return _averaged(start, encoder, recipe.average).eval().cpu(), history


def _supervised_loss(logits: torch.Tensor, labels: np.ndarray, task: str) -> torch.Tensor:
    target = torch.as_tensor(labels, device=logits.device)
    if task != "multilabel":
        losses = F.cross_entropy(logits, target.long(), ignore_index=UNLABELLED, label_smoothing=0.1, reduction="none")
        return losses.sum() / (target != UNLABELLED).sum().clamp_min(1)
    known = ~torch.isnan(target)
    loss = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(target).float(), reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)


def _schedule(recipe: Recipe, parts: list[CorpusPart]) -> Iterator[tuple[int, np.ndarray]]:
    """Batches of one set each, in random order: (which set, indices)."""
    random = np.random.default_rng(recipe.seed)
    wanted = [round(recipe.epochs * len(parts[0].train))]
    if len(parts) > 1:
        roots = np.sqrt([len(part.train) for part in parts[1:]])
        wanted += [round(recipe.share * wanted[0] * root / roots.sum()) for root in roots]
    batches: list[tuple[int, np.ndarray]] = []
    for which, (part, images) in enumerate(zip(parts, wanted, strict=True)):
        passes = -(-images // len(part.train))
        drawn = np.concatenate([random.permutation(part.train) for _ in range(passes)])[:images]
        batches += [(which, np.sort(drawn[i : i + _BATCH])) for i in range(0, len(drawn) - _BATCH + 1, _BATCH)]
    for position in random.permutation(len(batches)):
        yield batches[position]


def _averaged(start: TimmEncoder, trained: TimmEncoder, share: float) -> TimmEncoder:
    state = trained.state_dict()
    for key, value in start.state_dict().items():
        if value.is_floating_point():
            state[key] = (1 - share) * value + share * state[key]
    trained.load_state_dict(state)
    return trained


def as_record(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain values."""
    return asdict(recipe)
