"""Further pretraining of a start's tail on the medical corpus.

Linear heads on every trained stage learn the labels of each data set. Distillation keeps the embeddings close to those
of the starting network, to prevent forgetting: the student sees an augmented view, the teacher the plain image. In the
end the trained weights are averaged with the starting weights.

References:
    Learning without forgetting: Li and Hoiem 2016, arXiv:1606.09282. Averaging with the start: Wortsman et al. 2022,
    arXiv:2109.01903.
"""

import copy
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from core.data.listing import UNLABELED
from core.errors import BadRequest
from core.files import canonical_json, sha256_of
from core.models.classifier import channels_last
from trainer.pretraining.activations import PLAIN, Activations, activations
from trainer.pretraining.corpus import CorpusPart
from trainer.pretraining.starts import STARTS, Tail, Trunk
from trainer.progress import progress_bar
from trainer.training.resume import StateFile

_BATCH = 64
_WARM_UP = 0.1
_SCALE = 10.0  # length to which unit embeddings are scaled before a head
_CHECKPOINT_STEPS = 50


@dataclass(frozen=True)
class Recipe:
    """Settings of further pretraining.

    Attributes:
        start: key in `STARTS`.
        sets: the corpus: name -> maximum number of images.
        cut: the trunk's last block; the blocks above it are trained.
        views: augmented views per image; an epoch uses one of them. With 0 views it uses the plain image.
        epochs: passes over the corpus.
        lr: peak learning rate of the tail (AdamW, warm-up and cosine); heads have ten times this rate.
        distill: weight of the distance to the starting network's embeddings (1 - cosine of centered embeddings).
        average: share of the trained weights in the average with the starting weights, in (0, 1].
        seed: random seed of heads and order; views and the choice of images do not depend on it.
    """

    start: str
    sets: dict[str, int] = field(default_factory=dict)
    cut: int = 3
    views: int = 2
    epochs: int = 4
    lr: float = 3e-4
    distill: float = 1.0
    average: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class TrainingSet:
    """Training data from one data set: chosen images, their labels and cached activations.

    Attributes:
        part: the data set.
        rows: indices of the chosen images.
        plain: activations of the plain images.
        views: activations of their augmented views.
        teacher: the starting network's pooled outputs of the plain images, one array per trained stage.
        labels: (N,) class indices, or (N, K) of 0, 1 and NaN.
    """

    part: CorpusPart
    rows: np.ndarray
    plain: Activations
    views: tuple[Activations, ...]
    teacher: tuple[torch.Tensor, ...]
    labels: torch.Tensor

    def view(self, epoch: int) -> Activations:
        """Return the view that an epoch uses."""
        return self.views[epoch % len(self.views)] if self.views else self.plain


def chosen_rows(recipe: Recipe, part: CorpusPart) -> np.ndarray:
    """Return the indices of the images of a data set that a recipe trains on; the same for every seed."""
    return np.sort(np.random.default_rng(0).permutation(part.train)[: recipe.sets[part.spec.name]])


def prepare_training_sets(
    recipe: Recipe, parts: list[CorpusPart], trunk: Trunk, tail: Tail, device: torch.device
) -> list[TrainingSet]:
    """Choose the recipe's images, and compute their activations and the teacher's embeddings.

    Args:
        recipe: the recipe.
        parts: its data sets.
        trunk: trunk of the starting network.
        tail: tail of the starting network.
        device: device on which they run.
    """
    start, training_sets = STARTS[recipe.start], []
    for part in parts:
        rows = chosen_rows(recipe, part)
        by_view = [activations(start, recipe.cut, trunk, part, rows, v, device) for v in range(recipe.views + 1)]
        plain = by_view[PLAIN]
        teacher = tuple(torch.from_numpy(output) for output in pooled_outputs(tail, plain, device))
        labels = torch.as_tensor(part.listing.labels[rows])
        training_sets.append(TrainingSet(part, rows, plain, tuple(by_view[1:]), teacher, labels))
    return training_sets


@torch.inference_mode()
def pooled_outputs(tail: Tail, cached: Activations, device: torch.device) -> list[np.ndarray]:
    """Return a tail's pooled outputs for cached activations: [(N, D_0), (N, D_1), ...], float32."""
    tail = tail.to(device).eval()
    rows = np.arange(len(cached.features))
    batches = [tail(cached.batch(rows[first : first + _BATCH], device)) for first in range(0, len(rows), _BATCH)]
    return [torch.cat(stage).cpu().numpy() for stage in zip(*batches, strict=True)]


def embeddings(tail: Tail, cached: Activations, device: torch.device) -> dict[str, np.ndarray]:
    """Return every embedding of the encoder: name of the embedding -> (N, D)."""
    pooled = [*pooled_outputs(tail, cached, device), np.asarray(cached.pooled)]
    return {read: np.concatenate([pooled[index] for index in indices], axis=1) for read, indices in tail.reads.items()}


class _Heads(nn.Module):
    """Linear heads, one per data set and stage, on centered embeddings of unit length."""

    def __init__(self, training_sets: list[TrainingSet], centers: list[torch.Tensor]) -> None:
        super().__init__()
        self.centers = nn.ParameterList(nn.Parameter(center, requires_grad=False) for center in centers)
        self._stages = len(centers)
        self.layers = nn.ModuleList(
            nn.Linear(len(center), len(training_set.part.spec.labels))
            for training_set in training_sets
            for center in centers
        )

    def of(self, index: int) -> list[nn.Module]:
        """Return the heads of a data set, one per stage."""
        return list(self.layers)[index * self._stages : (index + 1) * self._stages]

    def unit(self, pooled: list[torch.Tensor]) -> list[torch.Tensor]:
        return [F.normalize(output - center, dim=1) for output, center in zip(pooled, self.centers, strict=True)]


def pretrain(
    recipe: Recipe, training_sets: list[TrainingSet], start_tail: Tail, device: torch.device
) -> tuple[Tail, list[dict[str, float]]]:
    """Train by a recipe. An interrupted training resumes from its last checkpoint.

    Returns:
        the tail in evaluation mode, not yet averaged with the starting weights, and the training curve: step, loss and
        its terms.
    Raises:
        BadRequest: if the corpus is smaller than a batch, or the loss is not finite.
    """
    if (images := sum(len(training_set.rows) for training_set in training_sets)) < _BATCH:
        raise BadRequest(
            f"The corpus has {images} images; pretraining needs at least {_BATCH}. Name further data sets with --sets."
        )
    # model, heads and optimizer
    torch.manual_seed(recipe.seed)
    tail = copy.deepcopy(start_tail).to(device).eval().requires_grad_(True)  # batch normalization keeps its statistics
    centers = [
        torch.cat(stage).mean(dim=0)
        for stage in zip(*(training_set.teacher for training_set in training_sets), strict=True)
    ]
    heads = _Heads(training_sets, centers).to(device)
    head_parameters = [p for p in heads.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": tail.parameters(), "lr": recipe.lr}, {"params": head_parameters, "lr": 10 * recipe.lr}],
        weight_decay=1e-4,
    )
    # all images of the corpus in one order: training set and row of each
    owner = np.concatenate([np.full(len(training_set.rows), index) for index, training_set in enumerate(training_sets)])
    row_in_set = np.concatenate([np.arange(len(training_set.rows)) for training_set in training_sets])
    steps_per_epoch = len(owner) // _BATCH
    total = recipe.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [recipe.lr, 10 * recipe.lr], total_steps=total, pct_start=_WARM_UP
    )
    # resume an interrupted training
    checkpoint = StateFile(f"pretrain-{_name_of(recipe, training_sets)}", device)
    history: list[dict[str, float]] = []
    step, spent = 0, 0.0
    if state := checkpoint.read():
        tail.load_state_dict(state["tail"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step, spent, history = state["step"], state["seconds"], state["history"]
    start_time = time.monotonic() - spent
    with progress_bar("pretraining", "batch") as show:
        while step < total:
            epoch, batch_index = divmod(step, steps_per_epoch)
            order = np.random.default_rng([recipe.seed, epoch]).permutation(len(owner))
            # a batch, grouped by training set
            batch = order[batch_index * _BATCH : (batch_index + 1) * _BATCH]
            groups = [(index, np.sort(row_in_set[batch[owner[batch] == index]])) for index in np.unique(owner[batch])]
            inputs = torch.cat([training_sets[index].view(epoch).batch(rows, device) for index, rows in groups])
            stages = heads.unit(tail(channels_last(inputs)))
            supervised = _supervised(heads, stages, groups, training_sets)
            distance = _distance(heads, stages, groups, training_sets)
            loss = supervised + recipe.distill * distance
            if not torch.isfinite(loss):
                raise BadRequest(f"Pretraining diverged at step {step + 1}. Lower --lr, which was {recipe.lr:g}.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(tail.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            # training curve and checkpoint
            if step % 20 == 0 or step == total - 1:
                terms = {"loss": loss, "supervised": supervised, "distance": distance}
                row = {name: round(float(value.detach()), 4) for name, value in terms.items()}
                history.append({"step": step, **row, "seconds": round(time.monotonic() - start_time, 1)})
            step += 1
            if step % _CHECKPOINT_STEPS == 0:
                checkpoint.write({
                    "tail": tail.state_dict(), "heads": heads.state_dict(), "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(), "step": step, "seconds": time.monotonic() - start_time,
                    "history": history,
                })  # fmt: skip
            show(step, total)
    checkpoint.remove()
    return tail.requires_grad_(False), history


def _name_of(recipe: Recipe, training_sets: list[TrainingSet]) -> str:
    images = [
        f"{training_set.part.spec.name}/{name}"
        for training_set in training_sets
        for name in training_set.part.listing.ids[training_set.rows]
    ]
    return sha256_of([canonical_json(asdict(recipe)), *images])[:24]


def _supervised(
    heads: _Heads, stages: list[torch.Tensor], groups: list[tuple[int, np.ndarray]], training_sets: list[TrainingSet]
) -> torch.Tensor:
    """Return the mean loss over the batch's images and the stages."""
    total = torch.zeros((), device=stages[0].device)
    offset = 0
    for index, rows in groups:
        target = training_sets[index].labels[rows].to(stages[0].device)
        for head, stage in zip(heads.of(index), stages, strict=True):
            logits = head(_SCALE * stage[offset : offset + len(rows)])
            total = total + len(rows) * _loss(logits, target, training_sets[index].part.spec.task)
        offset += len(rows)
    return total / (offset * len(stages))


def _distance(
    heads: _Heads, stages: list[torch.Tensor], groups: list[tuple[int, np.ndarray]], training_sets: list[TrainingSet]
) -> torch.Tensor:
    """Return 1 - cosine between the centered embeddings and the teacher's, averaged over images and stages."""
    device = stages[0].device
    targets = [torch.cat([training_sets[index].teacher[k][rows] for index, rows in groups]) for k in range(len(stages))]
    pairs = zip(stages, heads.unit([target.to(device) for target in targets]), strict=True)
    return 1 - torch.stack([(student * teacher).sum(dim=1).mean() for student, teacher in pairs]).mean()


def _loss(logits: torch.Tensor, target: torch.Tensor, task: str) -> torch.Tensor:
    if task != "multilabel":
        if (target == UNLABELED).all():
            return logits.sum() * 0
        return F.cross_entropy(logits, target.long(), ignore_index=UNLABELED, label_smoothing=0.1)
    known = ~torch.isnan(target)
    loss = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(target).float(), reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)


def average_weights(start: Tail, trained: Tail, share: float) -> Tail:
    """Average the starting and the trained weights of a tail; `share` is the weight of the trained ones."""
    tail, state = copy.deepcopy(trained).cpu(), trained.state_dict()
    for key, value in start.state_dict().items():
        if value.is_floating_point():
            state[key] = (1 - share) * value.cpu() + share * state[key].cpu()
    tail.load_state_dict(state)
    return tail
