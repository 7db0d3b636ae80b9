"""Fitting function of each training strategy.

The registry of strategies is `trainer.training.strategies`.

References:
    Layer-wise rates: Howard and Ruder 2018, arXiv:1801.06146 (discriminative fine-tuning, gradual unfreezing).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import xlogy
from torch import nn

from core.data.preprocessing import preparation
from core.metrics.calibration import fit_temperature, negative_log_likelihood
from core.models.classifier import Classifier, HeadEnsemble
from core.models.specs import ModelSpec
from trainer.meta_learning.maml import adapt_to
from trainer.meta_learning.protonet import fit_prototypes
from trainer.training.embedding_cache import EmbeddingCache
from trainer.training.folds import NOTHING_HELD_OUT, validation_folds
from trainer.training.frozen_settings import head_settings
from trainer.training.heads import fit_logistic, fit_mlp, fit_plain_loop, logits_of, run_in_parallel
from trainer.training.layer_freezing import merge_low_rank, parameter_groups
from trainer.training.settings import FitContext, FitData, FitResult, Settings
from trainer.training.training_loop import TrainingResult, predict_logits, train_network

HEAD = "tapped."
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # inverse L2 penalties to choose from, for embeddings of unit length
NO_FOLDS_STRENGTH = 10.0  # inverse penalty where nothing can be held out


def embeddings_of(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext
) -> np.ndarray:
    """Return (n, 1 + views, D) embeddings of a subset in plain and augmented views."""
    pixels = preparation(settings.preparation).pixel_steps
    cache = EmbeddingCache(
        model, spec.image, data.dataset, data.fingerprint, data.population, settings.augment, context.device, pixels
    )
    return cache.get(data.images, data.rows, settings.views, context.progress)


def _final_head(fold_heads: Sequence[nn.Sequential], final: nn.Sequential, settings: Settings) -> nn.Sequential:
    """Return the mean of all heads for a fold ensemble, else the head that was fitted to all images."""
    if settings.fold_ensemble and fold_heads:
        return nn.Sequential(HeadEnsemble([*fold_heads, final])).eval()
    return final


def concatenate_folds(
    held_out: list[np.ndarray], logits: list[np.ndarray], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the held-out positions of all folds, and their (J, classes) logits; empty without folds."""
    if not held_out:
        return np.array([], int), np.zeros((0, classes), np.float32)
    return np.concatenate(held_out), np.concatenate(logits)


def fit_head(
    model: Classifier,
    data: FitData,
    settings: Settings,
    context: FitContext,
    embeddings: np.ndarray,
    fit: Callable[[np.ndarray], nn.Sequential],
) -> FitResult:
    """Fit a head to all images, and one head per fold to predict the fold's held-out images.

    The model gets the head fitted to all images or, for a fold ensemble, the mean of all heads.

    Args:
        model: the classifier; its head is replaced.
        data: the subset.
        settings: training settings.
        context: seed of the folds.
        embeddings: (n, views, D), the plain view first.
        fit: maps positions in the subset to a head fitted to them.
    """
    folds = validation_folds(data.labels, data.groups, settings.folds, context.seed)
    parts = [*(trained_on for trained_on, _ in folds), np.arange(len(data.labels))]
    *fold_heads, final = run_in_parallel([partial(fit, rows) for rows in parts])
    held_out = [held for _, held in folds]
    logits = [logits_of(head, embeddings[held, 0]) for head, held in zip(fold_heads, held_out, strict=True)]
    model.head.layers = _final_head(fold_heads, final, settings)
    positions, logits_by_position = concatenate_folds(held_out, logits, data.classes)
    return FitResult(positions, logits_by_position, HEAD, describe_folds(settings, positions))


def fit_frozen(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext) -> FitResult:
    """Fit the MLP head on embeddings of a frozen encoder."""
    embeddings = embeddings_of(model, spec, data, settings, context)

    def fit(rows: np.ndarray) -> nn.Sequential:
        return fit_mlp(model.head.layers, embeddings[rows], data.labels[rows], settings, context.seed, model.blocks)

    return fit_head(model, data, settings, context, embeddings, fit)


def fit_frozen_logistic(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext
) -> FitResult:
    """Fit logistic regression on embeddings of a frozen encoder; the penalty maximizes the out-of-fold likelihood.

    The likelihood is computed after temperature scaling, as the run itself will be. The penalty is therefore chosen by
    its effect on the order of the images, not by the scale of the logits.
    """
    embeddings = embeddings_of(model, spec, data, settings, context)
    strengths = (settings.strength,) if settings.strength else STRENGTHS
    folds = validation_folds(data.labels, data.groups, settings.folds, context.seed)
    held_out = [held for _, held in folds]

    def fit(rows: np.ndarray, inverse_penalties: Sequence[float]) -> list[nn.Sequential]:
        return fit_logistic(
            embeddings[rows], data.labels[rows], data.classes, inverse_penalties, settings, context.seed, model.blocks
        )

    fold_heads = [fit(trained_on, strengths) for trained_on, _ in folds]
    candidates = []
    for index, strength in enumerate(strengths):
        parts = [logits_of(heads[index], embeddings[held, 0]) for heads, held in zip(fold_heads, held_out, strict=True)]
        positions, logits = concatenate_folds(held_out, parts, data.classes)
        labels = data.labels[positions]
        loss = negative_log_likelihood(logits, labels, fit_temperature(logits, labels)) if len(positions) else 0.0
        candidates.append((loss, index, strength, positions, logits))
    if not folds:
        candidates = candidates[strengths.index(NO_FOLDS_STRENGTH) :] if not settings.strength else candidates
    _, index, strength, positions, logits = min(candidates, key=lambda row: row[:2])
    (final,) = fit(np.arange(len(data.labels)), [strength])
    model.head.layers = _final_head([heads[index] for heads in fold_heads], final, settings)
    selection = describe_folds(settings, positions)
    if not settings.strength:
        selection += f"; penalty 1/{strength:g}" + (" chosen there" if folds else "")
    return FitResult(positions, logits, HEAD, selection)


def fit_plain_loop_frozen(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext
) -> FitResult:
    """Fit a head with a plain training loop on cached views of a frozen encoder: the untuned baseline."""
    embeddings = embeddings_of(model, spec, data, settings, context)
    views = embeddings[:, 1:] if embeddings.shape[1] > 1 else embeddings  # all training images have the plain view only

    def fit(rows: np.ndarray) -> nn.Sequential:
        return fit_plain_loop(model.head.layers, views[rows], data.labels[rows], settings, context.seed)

    return fit_head(model, data, settings, context, embeddings, fit)


def fit_network(
    model: Classifier,
    spec: ModelSpec,
    data: FitData,
    settings: Settings,
    context: FitContext,
    frozen_statistics: bool,
    prepare: Callable[[FitData], list[dict[str, Any]]],
) -> FitResult:
    """Train one network per fold to predict its held-out images, then the final network on all images.

    The folds serve the operating point, the temperature and, with patience, the length of training. Their weights are
    discarded.

    Args:
        model: the classifier with its initial weights.
        spec: its row in the registry.
        data: the subset.
        settings: training settings.
        context: seed, device and progress.
        frozen_statistics: keep batch normalization in evaluation mode.
        prepare: given the training images, prepares the initial model in place and returns its parameter groups.
    """
    start, layers = copy.deepcopy(model.state_dict()), model.head.layers
    folds = validation_folds(data.labels, data.groups, settings.folds, context.seed)
    all_positions = np.arange(len(data.labels))
    predicted: list[np.ndarray] = []
    history: list[dict[str, Any]] = []
    lengths: list[int] = []
    trained = TrainingResult(np.zeros((0, data.classes), np.float32), [], 0)
    # fold 0 is the final network, trained on all images after the others
    parts = [*enumerate(folds, start=1), (0, (all_positions, all_positions[:0]))]

    def show(index: int, done: int, total: int) -> None:
        if context.progress:
            context.progress(index * total + done, len(parts) * total)

    for index, (fold, (trained_on, held)) in enumerate(parts):
        # Begin each network from the same initial weights
        model.head.layers = copy.deepcopy(layers)
        model.load_state_dict(start)
        model.requires_grad_(True)
        unfinished = context.unfinished.part(f"fold{fold}") if context.unfinished else None
        fold_context = replace(context, progress=partial(show, index), unfinished=unfinished)
        # Train it; the final network has no images to stop by, and stops at the median length of the folds
        groups, learn, hold_out = prepare(data.part(trained_on)), data.part(trained_on), data.part(held)
        stop_after = round(float(np.median(lengths))) if settings.patience and lengths and not fold else 0
        trained = train_network(
            model, groups, learn, hold_out, spec.image, settings, fold_context, frozen_statistics, stop_after
        )
        merge_low_rank(model)
        history += [{**row, "fold": fold} for row in trained.history]
        if trained.failed:
            break
        if fold:
            predicted.append(trained.logits)
            lengths.append(trained.epochs)

    # Keep the out-of-fold predictions, and how well the final network fits its own training images
    positions, logits = concatenate_folds([held for _, held in folds[: len(predicted)]], predicted, data.classes)
    fitted = predict_logits(model, data.images, spec.image, context.device)
    model.cpu()
    history[-1] |= {
        "fit_loss": negative_log_likelihood(fitted, data.labels), "guess_loss": loss_of_guessing(data.labels)
    }  # fmt: skip
    return FitResult(positions, logits, "", describe_folds(settings, positions), history, trained.failed)


def loss_of_guessing(labels: np.ndarray) -> float:
    """Return the log-loss, in nats, of predicting the prevalence of each class or finding for every image.

    Args:
        labels: (n,) class indices, or (n, C) findings with NaN for unknown.
    """
    if labels.ndim == 1:
        shares = np.bincount(labels) / len(labels)
        return float(-xlogy(shares, shares).sum())
    shares = np.nanmean(labels, axis=0)
    known = (~np.isnan(labels)).sum(axis=0)
    entropy = -xlogy(shares, shares) - xlogy(1 - shares, 1 - shares)
    return float((known * entropy).sum() / known.sum())


def fit_finetune(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext
) -> FitResult:
    """Train the head on frozen embeddings first, then the head and the chosen parameters of the encoder together."""
    start_settings = head_settings(settings)

    def prepare(train_data: FitData) -> list[dict[str, Any]]:
        embeddings = embeddings_of(model, spec, train_data, start_settings, context)
        model.head.layers = fit_mlp(
            model.head.layers, embeddings, train_data.labels, start_settings, context.seed, model.blocks
        ).train()
        encoder_groups = parameter_groups(model.encoder, settings)
        return [*encoder_groups, {"params": list(model.head.parameters()), "lr": settings.lr}]

    return fit_network(model, spec, data, settings, context, frozen_statistics=True, prepare=prepare)


def fit_scratch(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext
) -> FitResult:
    """Train every weight from random initialization."""

    def prepare(train_data: FitData) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "lr": settings.lr}]

    return fit_network(model, spec, data, settings, context, frozen_statistics=False, prepare=prepare)


def describe_folds(settings: Settings, held_out: np.ndarray) -> str:
    """Return how images were held out for the operating point and the temperature, in words."""
    if not len(held_out):
        return NOTHING_HELD_OUT
    return f"cross-validation inside the subset, {settings.folds} folds at most"


def fit_maml(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext) -> FitResult:
    """Adapt the meta-learned initialization to the subset, and once per fold to predict its held-out images."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    folds = validation_folds(data.labels, data.groups, settings.folds, context.seed)
    all_positions = np.arange(len(data.labels))
    predicted, failed = [], ""
    for done, (train_positions, held) in enumerate([*folds, (all_positions, all_positions[:0])]):
        model.load_state_dict(start)
        weights = adapt_to(model, data.part(train_positions), spec.image, settings, context.device)
        if not all(torch.isfinite(value).all() for value in weights.values()):
            failed = (
                "adaptation to the subset diverged, and the start was kept. Lower --inner-lr, which was "
                f"{settings.inner_lr:g}, or --adapt-steps."
            )
            break
        model.load_state_dict({**start, **weights})
        if len(held):
            predicted.append(predict_logits(model, data.images[held], spec.image, context.device))
        if context.progress:
            context.progress(done + 1, len(folds) + 1)
    if failed:
        model.load_state_dict(start)
    positions, logits = concatenate_folds([held for _, held in folds[: len(predicted)]], predicted, data.classes)
    model.eval().cpu()
    return FitResult(positions, logits, "", describe_folds(settings, positions), failed=failed)


def fit_protonet(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext
) -> FitResult:
    """Fit class means of the embeddings of a frozen encoder."""
    embeddings = embeddings_of(model, spec, data, settings, context)

    def fit(rows: np.ndarray) -> nn.Sequential:
        return fit_prototypes(embeddings[rows], data.labels[rows], data.classes)

    return fit_head(model, data, settings, context, embeddings, fit)


def fit_protonet_meta(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: FitContext
) -> FitResult:
    """Fit class means of the embeddings of a meta-trained encoder, which the run stores together with its head."""
    return replace(fit_protonet(model, spec, data, settings, context), trained_prefix="")
