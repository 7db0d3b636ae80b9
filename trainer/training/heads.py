"""Heads on cached embeddings: the MLP and logistic regression, each with its own normalization."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from torch import nn
from torch.nn import functional as F

from core.models.classifier import DROPOUT, UnitNorm, linear_layers
from trainer.training.class_balance import imbalance_for
from trainer.training.loss_functions import NonFiniteError, all_finite, as_targets
from trainer.training.losses import loss_for
from trainer.training.optimizers import optimizer_for, schedule_for
from trainer.training.settings import Settings

_WARM_UP = 0.3


def mean_and_deviation(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) and standard deviation (D,) of each feature over images and views."""
    variance, mean = torch.var_mean(torch.from_numpy(embeddings).flatten(0, 1), dim=0, correction=0)
    return mean.numpy(), variance.sqrt().numpy() + np.float32(1e-3)


def unit_norm(embeddings: np.ndarray, blocks: Sequence[int], scale: float) -> UnitNorm:
    """Return the layer that centers embeddings at their mean over images and views, and scales each block's length.

    Args:
        embeddings: (n, views, D).
        blocks: widths of the blocks that are scaled separately; their sum is D.
        scale: length of an embedding after scaling.
    """
    norm = UnitNorm(blocks, scale)
    norm.mean.copy_(torch.from_numpy(embeddings).flatten(0, 1).mean(dim=0))
    return norm


def run_in_parallel(fits: Sequence[Callable[[], nn.Sequential]]) -> list[nn.Sequential]:
    """Run independent fits in parallel, each on a single thread: heads are too small to be split over cores.

    The result of a fit does not depend on the number of cores.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return [running.result() for running in [pool.submit(fit) for fit in fits]]
    finally:
        torch.set_num_threads(threads)


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
    attention over slices, are trained too and receive raw embeddings.

    Args:
        start: the head with its initial weights.
        embeddings: (n, views, D); every step takes a random view of each image.
        labels: (n,) class indices, or (n, C) findings with NaN for unknown.
        settings: training settings.
        seed: random seed of order, views and dropout.
        blocks: widths of the blocks of an embedding that are scaled separately; a single block by default.
    Raises:
        NonFiniteError: if the loss or a weight is not finite.
    """
    # take the head apart, and prepare the normalization of its inputs
    random = np.random.default_rng(seed)
    layers = copy.deepcopy(start)
    *leading, hidden_layer, _, _, output_layer = layers
    gather = nn.Sequential(*leading)
    width = hidden_layer.get_parameter("weight").shape[1]
    rows = embeddings.reshape(len(embeddings), -1, width)
    norm = unit_norm(rows, tuple(blocks) or (width,), width**0.5)
    standard = mean_and_deviation(rows) if settings.scaling == "standard" else None
    inputs = torch.from_numpy(embeddings).flatten(0, 1)  # (n * views, D)
    views = embeddings.shape[1]

    def normalized(raw: torch.Tensor) -> torch.Tensor:
        if standard is None:
            return norm(gather(raw))
        center, spread = map(torch.from_numpy, standard)
        return (gather(raw) - center) / spread

    # loss, optimizer and schedule
    imbalance = imbalance_for(settings.imbalance, labels, settings.augment)
    classes = len(output_layer.get_parameter("bias"))
    targets, weights = as_targets(labels), imbalance.weights(labels, classes)
    row = loss_for(settings, labels, classes)
    loss_of = row.build(settings, classes, labels.ndim == 2)
    count = imbalance.images_per_epoch(labels)
    batch_size = min(settings.batch_size, count)
    batches = imbalance.batches(labels, batch_size, random)
    steps = max(settings.min_steps, settings.epochs * -(-count // batch_size))
    groups = [{"params": list(layers.parameters()), "lr": settings.lr}]
    optimizer = optimizer_for(settings, row).build(groups, settings, loss_of, steps, True)
    schedule = schedule_for(settings, optimizer, steps, _WARM_UP)
    failed = f"of the head was no longer a number. Lower the learning rate (--lr), which was {settings.lr:g}."
    for step in range(steps):
        batch = next(batches)
        batch_inputs = inputs.index_select(0, torch.from_numpy(batch.positions * views + batch.views(views, random)))
        hidden = F.relu(hidden_layer(normalized(batch_inputs)))
        # dropout uses this fit's own generator, as all threads share PyTorch's
        mask = torch.from_numpy(random.random(hidden.shape, dtype=np.float32) >= DROPOUT)
        loss = loss_of(output_layer(hidden * mask / (1 - DROPOUT)), targets[batch.positions], weights)
        if not torch.isfinite(loss):
            raise NonFiniteError(f"at step {step + 1} the loss {failed}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    # make the normalization part of the head
    if standard is None:
        layers = nn.Sequential(*leading, norm, *layers[len(leading) :])
    else:
        _absorb_standardization(hidden_layer, *standard)
    if not all_finite(layers.state_dict().values()):
        raise NonFiniteError(f"in the end a weight {failed}")
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
    """Fit logistic regressions on normalized embeddings of all views, one per penalty.

    Args:
        embeddings: (n, views, D).
        labels: (n,) class indices, or (n, C) findings with NaN for unknown, with one regression per finding.
        classes: number of classes.
        strengths: inverses of the L2 penalty, ascending; each fit starts from the previous one.
        settings: training settings; only `scaling`, `imbalance` and `augment` are used.
        seed: random seed of the images that are left out or repeated.
        blocks: widths of the blocks of an embedding that are scaled separately; a single block by default.
    Returns:
        for each strength a head that takes raw embeddings.
    """
    random = np.random.default_rng(seed)
    imbalance = imbalance_for(settings.imbalance, labels, settings.augment)
    epoch = imbalance.draw_epoch(labels, random)
    views = embeddings.shape[1]
    if epoch.repeats is None:  # every view of every image
        positions, view = np.repeat(np.sort(epoch.positions), views), np.tile(np.arange(views), len(epoch.positions))
    else:
        positions, view = epoch.positions, epoch.views(views, random)
    norm = unit_norm(embeddings, tuple(blocks) or (embeddings.shape[-1],), 1.0)
    standard = mean_and_deviation(embeddings) if settings.scaling == "standard" else None
    flat, targets = embeddings[positions, view], labels[positions]
    flat = norm(torch.from_numpy(flat)).numpy() if standard is None else (flat - standard[0]) / standard[1]
    fits = _fit_multinomial if labels.ndim == 1 else _fit_binary
    heads = []
    for weight, bias in fits(flat, targets, classes, strengths, imbalance.uses_class_weights):
        linear = linear_layers(flat.shape[1], classes)
        linear.load_state_dict({"0.weight": torch.from_numpy(weight), "0.bias": torch.from_numpy(bias)})
        if standard is None:
            linear = nn.Sequential(norm, *linear)
        else:
            _absorb_standardization(linear[0], *standard)
        heads.append(linear.eval())
    return heads


def _fit_multinomial(
    flat: np.ndarray, labels: np.ndarray, classes: int, strengths: Sequence[float], weighted: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weights (C, D) and biases (C,) of multinomial regression for each strength."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=2000, class_weight="balanced" if weighted else None, warm_start=True)
    for strength in strengths:
        model.set_params(C=strength).fit(flat, labels)
        weight, bias = model.coef_, model.intercept_
        if classes == 2:
            weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        yield weight, bias


def _fit_binary(
    flat: np.ndarray, labels: np.ndarray, classes: int, strengths: Sequence[float], weighted: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weights (C, D) and biases (C,) of one binary regression per finding, for each strength.

    All findings share one matrix product, so that fourteen findings take no longer than one. A finding whose known
    labels are all equal gets zero weights, and its bias states the prevalence.
    """
    known = ~np.isnan(labels)
    truth = np.where(known, labels > 0.5, False)
    positives, count = truth.sum(axis=0), known.sum(axis=0)
    has_both = (positives > 0) & (positives < count)
    importance = known.astype(flat.dtype)
    if weighted:
        balance = np.where(truth, count / np.maximum(2 * positives, 1), count / np.maximum(2 * (count - positives), 1))
        importance = importance * balance.astype(flat.dtype)
    importance = importance * has_both
    prevalence = (positives + 0.5) / (count + 1)
    weight = np.zeros((classes, flat.shape[1]))
    bias = np.log(prevalence / (1 - prevalence))

    def loss(packed: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        weight, bias = np.split(packed.reshape(classes, -1), [-1], axis=1)  # (C, D) and (C, 1)
        logits = flat @ weight.T.astype(flat.dtype) + bias.T.astype(flat.dtype)
        penalty = 0.5 * float((weight**2).sum()) / strength
        value = -float((importance * (truth * log_expit(logits) + ~truth * log_expit(-logits))).sum(dtype=float))
        residual = importance * (expit(logits) - truth)  # (N, C)
        gradient = np.concatenate([residual.T @ flat + weight / strength, residual.sum(axis=0)[:, None]], axis=1)
        return value + penalty, gradient.ravel().astype(float)

    for strength in strengths:
        start = np.concatenate([weight, bias[:, None]], axis=1).ravel()
        fitted = minimize(loss, start, (strength,), "L-BFGS-B", jac=True, options={"maxiter": 1000}).x
        weight, bias = (part.copy() for part in np.split(fitted.reshape(classes, -1), [-1], axis=1))
        bias = bias[:, 0]
        yield weight, bias


def fit_plain_loop(
    start: nn.Sequential, embeddings: np.ndarray, labels: np.ndarray, settings: Settings, seed: int
) -> nn.Sequential:
    """Train a fresh head with a plain loop: raw embeddings, AdamW at a constant rate, a fixed number of epochs.

    This is the untuned baseline that every recipe has to beat.

    Args:
        start: the head with its initial weights.
        embeddings: (n, views, D), of augmented views only; epoch e uses view e.
        labels: (n,) class indices, or (n, C) findings with NaN for unknown.
        settings: training settings: epochs, batch size, learning rate and weight decay are used.
        seed: random seed of order and dropout.
    Raises:
        NonFiniteError: if the loss is not finite.
    """
    random = np.random.default_rng(seed)
    layers = copy.deepcopy(start)
    *leading, last = layers
    body = nn.Sequential(*(layer for layer in leading if not isinstance(layer, nn.Dropout)))
    inputs, targets = torch.from_numpy(embeddings), as_targets(labels)
    row = loss_for(settings, labels, len(last.get_parameter("bias")))
    loss_of = row.build(settings, len(last.get_parameter("bias")), labels.ndim == 2)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    for epoch in range(settings.epochs):
        order = random.permutation(len(labels))
        for start_at in range(0, len(order), settings.batch_size):
            positions = torch.from_numpy(order[start_at : start_at + settings.batch_size])
            hidden = body(inputs[positions, epoch % inputs.shape[1]])
            mask = torch.from_numpy(random.random(hidden.shape, dtype=np.float32) >= DROPOUT)
            loss = loss_of(last(hidden * mask / (1 - DROPOUT)), targets[positions], None)
            if not torch.isfinite(loss):
                raise NonFiniteError(f"in epoch {epoch + 1} the loss of the head was no longer a number. Lower --lr.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return layers.eval()


def _absorb_standardization(layer: nn.Module, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Convert a linear layer on standardized embeddings into one on raw embeddings, in place."""
    state = layer.state_dict()
    weight = state["weight"] / torch.from_numpy(deviation)
    layer.load_state_dict({"weight": weight, "bias": state["bias"] - weight @ torch.from_numpy(mean)})


def logits_of(layers: nn.Module, embeddings: np.ndarray) -> np.ndarray:
    """Map (n, D) raw embeddings to (n, C) logits."""
    with torch.no_grad():
        return layers(torch.from_numpy(np.ascontiguousarray(embeddings))).numpy()
