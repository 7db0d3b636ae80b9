"""Heads on cached embeddings: the MLP and logistic regression, on embeddings centered and scaled to unit length."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from core.errors import BadRequest
from core.models.classifier import DROPOUT, UnitNorm, linear_layers
from trainer.training.class_balance import imbalance_for
from trainer.training.losses import NoNumberError, are_numbers, as_targets, loss_for
from trainer.training.optimizers import optimiser_for, schedule_for
from trainer.training.settings import Settings

_WARM_UP = 0.3
SCALINGS = ("unit", "standard")


def standardisation(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature over images and views: (D,) and (D,)."""
    variance, mean = torch.var_mean(torch.from_numpy(embeddings).flatten(0, 1), dim=0, correction=0)
    return mean.numpy(), variance.sqrt().numpy() + np.float32(1e-3)


def unit_norm(embeddings: np.ndarray, blocks: Sequence[int], scale: float) -> UnitNorm:
    """Return the normalization that centers embeddings at their mean over images and views.

    Args:
        embeddings: (n, views, D).
        blocks: widths of the blocks that are scaled one by one; their sum is D.
        scale: length of an embedding afterwards.
    """
    norm = UnitNorm(blocks, scale)
    norm.mean.copy_(torch.from_numpy(embeddings).flatten(0, 1).mean(dim=0))
    return norm


def side_by_side(fits: Sequence[Callable[[], nn.Sequential]]) -> list[nn.Sequential]:
    """Runs independent fits at once, each on one thread: heads are too small to share cores over.

    What a fit returns does not depend on how many cores the machine has.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return [running.result() for running in [pool.submit(fit) for fit in fits]]
    finally:
        torch.set_num_threads(threads)


def check_scaling(settings: Settings) -> None:
    """Raise BadRequest if the scaling of embeddings is not one of `SCALINGS`."""
    if settings.scaling not in SCALINGS:
        raise BadRequest(f"Expected --scaling to be one of {', '.join(SCALINGS)}, but got {settings.scaling!r}.")


def fit_mlp(
    start: nn.Sequential,
    embeddings: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    seed: int,
    blocks: Sequence[int] = (),
) -> nn.Sequential:
    """Train a copy of a fresh head, embedding -> 512 -> ReLU -> dropout 0.3 -> classes, on normalized embeddings.

    The normalization becomes part of the head, which therefore takes raw embeddings. Layers before it, such as
    attention over slices, are trained with it and see raw ones.

    Args:
        start: the head with its initial weights.
        embeddings: (n, views, D); every step takes a random view of each image.
        labels: (n,), class indices, or (n, C) findings with NaN for unknown.
        settings: of the training.
        seed: of order, views and dropout.
        blocks: widths of the blocks of an embedding that are scaled one by one; one block by default.
    Raises:
        NoNumberError: if the loss or a weight is no longer a number.
    """
    check_scaling(settings)
    random = np.random.default_rng(seed)
    layers = copy.deepcopy(start)
    *before, into, _, _, out = layers
    gather = nn.Sequential(*before)
    width = into.get_parameter("weight").shape[1]
    rows = embeddings.reshape(len(embeddings), -1, width)
    mean, deviation = standardisation(rows)
    norm = unit_norm(rows, tuple(blocks) or (width,), width**0.5)
    center, spread = torch.from_numpy(mean), torch.from_numpy(deviation)
    inputs = torch.from_numpy(embeddings).flatten(0, 1)  # (n * views, D)
    views = embeddings.shape[1]

    def normalized(raw: torch.Tensor) -> torch.Tensor:
        return norm(gather(raw)) if settings.scaling == "unit" else (gather(raw) - center) / spread

    imbalance = imbalance_for(settings.imbalance, labels, settings.augment)
    classes = len(out.get_parameter("bias"))
    targets, weights = as_targets(labels), imbalance.weights(labels, classes)
    row = loss_for(settings, labels, classes)
    loss_of = row.build(settings, classes, labels.ndim == 2)
    order = imbalance.epoch(labels, random)
    count, batch = len(order.positions), min(settings.batch_size, len(order.positions))
    steps = max(settings.min_steps, settings.epochs * -(-count // batch))
    groups = [{"params": list(layers.parameters()), "lr": settings.lr}]
    optimiser = optimiser_for(settings, row).build(groups, settings, loss_of, steps, True)
    schedule = schedule_for(settings, optimiser, steps, _WARM_UP)
    failed = f"of the head was no longer a number. Lower the learning rate (--lr), which was {settings.lr:g}."
    for step in range(steps):
        at, order = order.take(batch, lambda: imbalance.epoch(labels, random))
        seen = inputs.index_select(0, torch.from_numpy(at.positions * views + at.views(views, random)))
        hidden = F.relu(into(normalized(seen)))
        # dropout from this fit's own generator: PyTorch's is shared by all threads
        kept = torch.from_numpy(random.random(hidden.shape, dtype=np.float32) >= DROPOUT)
        loss = loss_of(out(hidden * kept / (1 - DROPOUT)), targets[at.positions], weights)
        if not torch.isfinite(loss):
            raise NoNumberError(f"at step {step + 1} the loss {failed}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    if settings.scaling == "unit":
        layers = nn.Sequential(*before, norm, *layers[len(before) :])
    else:
        _fold(into, mean, deviation)
    if not are_numbers(layers.state_dict().values()):
        raise NoNumberError(f"in the end a weight {failed}")
    return layers.eval()


def fit_logistic(
    embeddings: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strengths: Sequence[float],
    settings: Settings,
    seed: int,
    blocks: Sequence[int] = (),
) -> list[nn.Sequential]:
    """Fit logistic regressions on normalized embeddings of all views, one for each penalty.

    Args:
        embeddings: (n, views, D).
        labels: (n,), class indices, or (n, C) findings with NaN for unknown: one regression a finding.
        classes: number of classes.
        strengths: inverses of the L2 penalty, ascending; each fit starts from the one before.
        settings: of the training; only scaling and how imbalance is met count.
        seed: of the images drawn where some are left out or repeated.
        blocks: widths of the blocks of an embedding that are scaled one by one; one block by default.
    Returns:
        for each strength a head that takes raw embeddings.
    """
    check_scaling(settings)
    random = np.random.default_rng(seed)
    imbalance = imbalance_for(settings.imbalance, labels, settings.augment)
    epoch = imbalance.epoch(labels, random)
    views = embeddings.shape[1]
    if epoch.repeats is None:  # every view of every image
        at, view = np.repeat(np.sort(epoch.positions), views), np.tile(np.arange(views), len(epoch.positions))
    else:
        at, view = epoch.positions, epoch.views(views, random)
    norm = unit_norm(embeddings, tuple(blocks) or (embeddings.shape[-1],), 1.0)
    mean, deviation = standardisation(embeddings)
    flat, repeated = embeddings[at, view], labels[at]
    flat = norm(torch.from_numpy(flat)).numpy() if settings.scaling == "unit" else (flat - mean) / deviation
    fits = _of_classes if labels.ndim == 1 else _of_findings
    heads = []
    for weight, bias in fits(flat, repeated, classes, strengths, imbalance.weighs):
        linear = linear_layers(flat.shape[1], classes)
        linear.load_state_dict({"0.weight": torch.from_numpy(weight), "0.bias": torch.from_numpy(bias)})
        if settings.scaling == "standard":
            _fold(linear[0], mean, deviation)
        heads.append((nn.Sequential(norm, *linear) if settings.scaling == "unit" else linear).eval())
    return heads


def _of_classes(
    flat: np.ndarray, labels: np.ndarray, classes: int, strengths: Sequence[float], weighs: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weights (C, D) and biases (C,) of multinomial regression for each strength."""
    model = LogisticRegression(max_iter=2000, class_weight="balanced" if weighs else None, warm_start=True)
    for strength in strengths:
        model.set_params(C=strength).fit(flat, labels)
        weight, bias = model.coef_, model.intercept_
        if classes == 2:
            weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        yield weight, bias


def _of_findings(
    flat: np.ndarray, labels: np.ndarray, classes: int, strengths: Sequence[float], weighs: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weights (C, D) and biases (C,) of one regression a finding, for each strength.

    All findings share one matrix product, which makes fourteen of them as quick as one. A finding whose known labels
    are all alike keeps its prevalence alone.
    """
    known = ~np.isnan(labels)
    truth = np.where(known, labels > 0.5, False)
    positives, count = truth.sum(axis=0), known.sum(axis=0)
    both = (positives > 0) & (positives < count)
    importance = known.astype(flat.dtype)
    if weighs:
        balance = np.where(truth, count / np.maximum(2 * positives, 1), count / np.maximum(2 * (count - positives), 1))
        importance = importance * balance.astype(flat.dtype)
    importance = importance * both
    share = (positives + 0.5) / (count + 1)
    weight = np.zeros((classes, flat.shape[1]))
    bias = np.log(share / (1 - share))

    def loss(packed: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        weight, bias = np.split(packed.reshape(classes, -1), [-1], axis=1)  # (C, D) and (C, 1)
        logits = flat @ weight.T.astype(flat.dtype) + bias.T.astype(flat.dtype)
        penalty = 0.5 * float((weight**2).sum()) / strength
        value = -float((importance * (truth * log_expit(logits) + ~truth * log_expit(-logits))).sum(dtype=float))
        residual = importance * (expit(logits) - truth)  # (N, C)
        slope = np.concatenate([residual.T @ flat + weight / strength, residual.sum(axis=0)[:, None]], axis=1)
        return value + penalty, slope.ravel().astype(float)

    for strength in strengths:
        start = np.concatenate([weight, bias[:, None]], axis=1).ravel()
        fitted = minimize(loss, start, (strength,), "L-BFGS-B", jac=True, options={"maxiter": 1000}).x
        weight, bias = (part.copy() for part in np.split(fitted.reshape(classes, -1), [-1], axis=1))
        bias = bias[:, 0]
        yield weight, bias


def fit_plain_loop(
    start: nn.Sequential, embeddings: np.ndarray, labels: np.ndarray, settings: Settings, seed: int
) -> nn.Sequential:
    """Train a fresh head as a straightforward loop does: raw embeddings, AdamW at a constant rate, a fixed length.

    Nobody tuned it; it is the baseline that every recipe has to beat.

    Args:
        start: the head with its initial weights.
        embeddings: (n, views, D), of augmented views only; epoch e sees view e.
        labels: (n,), class indices, or (n, C) findings with NaN for unknown.
        settings: of the training: epochs, batch size, rate and weight decay.
        seed: of order and dropout.
    Raises:
        NoNumberError: if the loss or a weight is no longer a number.
    """
    random = np.random.default_rng(seed)
    layers = copy.deepcopy(start)
    *before, last = layers
    body = nn.Sequential(*(layer for layer in before if not isinstance(layer, nn.Dropout)))
    inputs, targets = torch.from_numpy(embeddings), as_targets(labels)
    row = loss_for(settings, labels, len(last.get_parameter("bias")))
    loss_of = row.build(settings, len(last.get_parameter("bias")), labels.ndim == 2)
    optimiser = torch.optim.AdamW(layers.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    for epoch in range(settings.epochs):
        order = random.permutation(len(labels))
        for start_at in range(0, len(order), settings.batch_size):
            at = torch.from_numpy(order[start_at : start_at + settings.batch_size])
            hidden = body(inputs[at, epoch % inputs.shape[1]])
            kept = torch.from_numpy(random.random(hidden.shape, dtype=np.float32) >= DROPOUT)
            loss = loss_of(last(hidden * kept / (1 - DROPOUT)), targets[at], None)
            if not torch.isfinite(loss):
                raise NoNumberError(f"in epoch {epoch + 1} the loss of the head was no longer a number. Lower --lr.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    return layers.eval()


def _fold(layer: nn.Module, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Makes a linear layer on standardised embeddings one on raw embeddings, in place."""
    state = layer.state_dict()
    weight = state["weight"] / torch.from_numpy(deviation)
    layer.load_state_dict({"weight": weight, "bias": state["bias"] - weight @ torch.from_numpy(mean)})


def logits_of(layers: nn.Module, embeddings: np.ndarray) -> np.ndarray:
    """(n, D) raw embeddings -> (n, C) logits."""
    with torch.no_grad():
        return layers(torch.from_numpy(np.ascontiguousarray(embeddings))).numpy()
