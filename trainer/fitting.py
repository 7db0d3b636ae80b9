"""How each strategy trains: what is done with a model and the labelled images of a subset, and nothing else.

The table of strategies is `trainer.strategies`; those that adapt a start learnt from other tasks are in
`trainer.few_shot`.

References:
    Layer-wise rates: Howard and Ruder 2018, arXiv:1801.06146 (discriminative fine-tuning, gradual unfreezing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from core.data.augment import augmenter
from core.data.preprocessing import preparation
from core.metrics.calibration import negative_log_likelihood
from core.models.classifier import Classifier
from core.models.specs import ModelSpec
from trainer.config import Context, FitData, Fitted, Settings
from trainer.embeddings import EmbeddingCache
from trainer.folds import NOTHING_HELD_OUT, held_apart, judged_folds
from trainer.heads import LOGISTIC_STRENGTHS, fit_logistic, fit_mlp, logits_of, side_by_side
from trainer.loop import train_network
from trainer.losses import LOSSES
from trainer.unfreezing import groups_of

HEAD = "tapped."
FROZEN = Settings(epochs=10, min_steps=30, batch_size=64, lr=1e-3, weight_decay=1e-2, views=4)


def embedding_cache(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, device: torch.device
) -> EmbeddingCache:
    """The cache of a model's encoder on the data set that a subset comes from."""
    pixels = preparation(settings.preparation).of_pixels
    return EmbeddingCache(model, spec.image, data.fingerprint, data.population, settings.augment, device, pixels)


def embeddings_of(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context
) -> np.ndarray:
    """(n, 1 + views, D): embeddings of a subset in plain and augmented views."""
    cache = embedding_cache(model, spec, data, settings, context.device)
    return cache.get(data.images, data.rows, settings.views, context.progress)


def cross_validated(
    embeddings: np.ndarray, data: FitData, settings: Settings, seed: int, fit: Callable[[np.ndarray], nn.Sequential]
) -> tuple[np.ndarray, np.ndarray, nn.Sequential]:
    """Fits a head to all images, and one to each fold's rest to judge the fold by.

    Args:
        embeddings: (n, views, D).
        data: the subset.
        settings: of the training.
        seed: of the folds.
        fit: positions in the subset -> a head that learnt them.
    Returns:
        positions, their logits by a head that did not learn them, and the head that learnt all. No positions where
        nothing can be held out.
    """
    folds = judged_folds(data.labels, data.groups, settings.folds, seed)
    everything = np.arange(len(data.labels))
    *judges, final = side_by_side([partial(fit, learnt) for learnt in [*(learnt for learnt, _ in folds), everything]])
    judged = [held for _, held in folds]
    logits = [logits_of(judge, embeddings[held, 0]) for judge, held in zip(judges, judged, strict=True)]
    return *together(judged, logits, data.classes), final


def together(judged: list[np.ndarray], logits: list[np.ndarray], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions judged in several folds, and their (J, classes) logits; empty where there are no folds."""
    if not judged:
        return np.array([], int), np.zeros((0, classes), np.float32)
    return np.concatenate(judged), np.concatenate(logits)


def fit_frozen(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> Fitted:
    """The shared MLP head on embeddings of a frozen encoder."""
    embeddings = embeddings_of(model, spec, data, settings, context)

    def fit(learnt: np.ndarray) -> nn.Sequential:
        return fit_mlp(model.head.layers, embeddings[learnt], data.labels[learnt], settings, context.seed)

    judged, logits, final = cross_validated(embeddings, data, settings, context.seed, fit)
    model.head.layers = final
    return Fitted(judged, logits, HEAD, folds_in_words(settings, judged))


def fit_frozen_logistic(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context
) -> Fitted:
    """Logistic regression on the same embeddings; its penalty is the one with the best out-of-fold likelihood."""
    embeddings = embeddings_of(model, spec, data, settings, context)

    def fit(learnt: np.ndarray, strength: float) -> nn.Sequential:
        return fit_logistic(embeddings[learnt], data.labels[learnt], data.classes, strength, settings, context.seed)

    tried = []
    for strength in LOGISTIC_STRENGTHS:
        judged, logits, final = cross_validated(
            embeddings, data, settings, context.seed, partial(fit, strength=strength)
        )
        tried.append((negative_log_likelihood(logits, data.labels[judged]), strength, judged, logits, final))
    _, strength, judged, logits, final = min(tried, key=lambda row: row[0])
    model.head.layers = final
    return Fitted(
        judged, logits, HEAD, folds_in_words(settings, judged) + f"; penalty strength 1/{strength:g} chosen there"
    )


def fit_finetune(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> Fitted:
    """The head first, on frozen embeddings; then the deeper layers with it, the deeper the faster."""
    learnt, held = held_apart(data.labels, data.groups, settings.folds, context.seed)
    learn, hold_out = data.part(learnt), data.part(held)
    start = settings_of_head(settings)
    of_encoder = groups_of(model.encoder, settings)
    embeddings = embeddings_of(model, spec, learn, start, context)
    model.head.layers = fit_mlp(model.head.layers, embeddings, learn.labels, start, context.seed)
    trained = train_network(
        model,
        [*of_encoder, {"params": list(model.head.parameters()), "lr": settings.lr}],
        learn,
        hold_out,
        spec.image,
        settings,
        context.seed,
        context.device,
        frozen_statistics=True,
        progress=context.progress,
        unfinished=context.unfinished,
    )
    return Fitted(held, trained.logits, "", _hold_out_in_words(settings, held), trained.history, trained.failed)


def settings_of_head(settings: Settings) -> Settings:
    """How the head is trained before the encoder: as `frozen` does, on the same images and by the same loss.

    Mixed images have no embeddings to cache, and a loss with an optimiser of its own wants a start by the usual one.
    """
    start = replace(FROZEN, preparation=settings.preparation, imbalance=settings.imbalance)
    if not augmenter(settings.augment).mixes:
        start = replace(start, augment=settings.augment)
    if not settings.loss or not LOSSES[settings.loss].optimizer:
        start = replace(start, loss=settings.loss, label_smoothing=settings.label_smoothing)
    return start


def fit_scratch(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> Fitted:
    """Everything from random weights."""
    learnt, held = held_apart(data.labels, data.groups, settings.folds, context.seed)
    trained = train_network(
        model,
        [{"params": list(model.parameters()), "lr": settings.lr}],
        data.part(learnt),
        data.part(held),
        spec.image,
        settings,
        context.seed,
        context.device,
        frozen_statistics=False,
        progress=context.progress,
        unfinished=context.unfinished,
    )
    return Fitted(held, trained.logits, "", _hold_out_in_words(settings, held), trained.history, trained.failed)


def folds_in_words(settings: Settings, judged: np.ndarray) -> str:
    """How images were set apart by which a head was judged."""
    if not len(judged):
        return NOTHING_HELD_OUT
    return f"cross-validation inside the subset, {settings.folds} folds at most"


def _hold_out_in_words(settings: Settings, held: np.ndarray) -> str:
    return f"one in {settings.folds} images of the subset held out" if len(held) else NOTHING_HELD_OUT
