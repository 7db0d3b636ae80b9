"""Further pretraining of a start's tail on the medical corpus.

Each set's labels are learnt by heads on every trained stage. The embeddings are held near those of the start, so that
what the start knows is not forgotten: the student sees an augmented view, the teacher the image as it is. At last the
trained weights are averaged with the start's.

References:
    Learning without forgetting: Li and Hoiem 2016, arXiv:1606.09282. Averaging with the start: Wortsman et al. 2022,
    arXiv:2109.01903.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from core.data.listing import UNLABELLED
from core.files import canonical_json, sha256_of
from trainer.pretraining.activations import PLAIN, Activations, activations
from trainer.pretraining.corpus import CorpusPart
from trainer.pretraining.starts import STARTS, Tail, Trunk
from trainer.progress import bar
from trainer.training.resume import Unfinished

_BATCH = 64
_WARM_UP = 0.1
_SCALE = 10.0  # of unit embeddings before a head
_CHECKPOINT_STEPS = 50


@dataclass(frozen=True)
class Recipe:
    """How an encoder is further pretrained.

    Attributes:
        start: key in `STARTS`.
        sets: the corpus: name -> images taken at most.
        cut: the trunk's last block; what is above it is trained.
        views: augmented views of each image; an epoch uses one of them. Without any, it uses the image as it is.
        epochs: passes over the corpus.
        lr: peak rate of the tail (AdamW, warm-up and cosine); heads have ten times it.
        distill: weight of the distance to the start's embeddings (1 - cosine of centered embeddings).
        average: share of the trained weights in the average with the start, in (0, 1].
        seed: of heads and order; views and the choice of images do not depend on it.
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
class Material:
    """What one set gives to the training: the images taken, their labels and cached activations.

    Attributes:
        part: the set.
        rows: indices of the images taken.
        plain: their activations as they are.
        views: those of their augmented views.
        teacher: the start's pooled outputs of the plain images, one array a trained stage.
        labels: (N,) class indices, or (N, K) of 0, 1 and NaN.
    """

    part: CorpusPart
    rows: np.ndarray
    plain: Activations
    views: tuple[Activations, ...]
    teacher: tuple[torch.Tensor, ...]
    labels: torch.Tensor

    def view(self, epoch: int) -> Activations:
        """The view that an epoch uses."""
        return self.views[epoch % len(self.views)] if self.views else self.plain


def taken(recipe: Recipe, part: CorpusPart) -> np.ndarray:
    """Indices of the images of a set that a recipe learns from; the same for every seed."""
    return np.sort(np.random.default_rng(0).permutation(part.train)[: recipe.sets[part.spec.name]])


def prepare(recipe: Recipe, parts: list[CorpusPart], trunk: Trunk, tail: Tail, device: torch.device) -> list[Material]:
    """Takes the recipe's images and computes their activations and the teacher's embeddings.

    Args:
        recipe: the recipe.
        parts: its sets.
        trunk: the start's.
        tail: the start's.
        device: where they run.
    """
    start, found = STARTS[recipe.start], []
    for part in parts:
        rows = taken(recipe, part)
        of_view = [activations(start, recipe.cut, trunk, part, rows, v, device) for v in range(recipe.views + 1)]
        plain = of_view[PLAIN]
        teacher = tuple(torch.from_numpy(one) for one in pooled_outputs(tail, plain, device))
        labels = torch.as_tensor(part.listing.labels[rows])
        found.append(Material(part, rows, plain, tuple(of_view[1:]), teacher, labels))
    return found


@torch.inference_mode()
def pooled_outputs(tail: Tail, cached: Activations, device: torch.device) -> list[np.ndarray]:
    """Pooled outputs of a tail for cached activations: [(N, D_0), (N, D_1), ...], float32."""
    tail = tail.to(device).eval()
    every = range(0, len(cached.features), _BATCH)
    count = len(cached.features)
    batches = [tail(cached.batch(np.arange(at, min(at + _BATCH, count)), device)) for at in every]
    return [torch.cat(stage).cpu().numpy() for stage in zip(*batches, strict=True)]


def embeddings(tail: Tail, cached: Activations, device: torch.device) -> dict[str, np.ndarray]:
    """Embeddings by every read of the encoder: name of the read -> (N, D)."""
    pooled = [*pooled_outputs(tail, cached, device), np.asarray(cached.pooled)]
    return {read: np.concatenate([pooled[place] for place in places], axis=1) for read, places in tail.reads.items()}


class _Heads(nn.Module):
    """Linear heads, one a set and stage, on centered embeddings of length 1."""

    def __init__(self, materials: list[Material], centers: list[torch.Tensor]) -> None:
        super().__init__()
        self.centers = nn.ParameterList(nn.Parameter(center, requires_grad=False) for center in centers)
        self._stages = len(centers)
        self.layers = nn.ModuleList(
            nn.Linear(len(center), len(one.part.spec.labels)) for one in materials for center in centers
        )

    def of(self, index: int) -> list[nn.Module]:
        """The heads of a set, one a stage."""
        return list(self.layers)[index * self._stages : (index + 1) * self._stages]

    def unit(self, pooled: list[torch.Tensor]) -> list[torch.Tensor]:
        return [F.normalize(one - center, dim=1) for one, center in zip(pooled, self.centers, strict=True)]


def pretrain(
    recipe: Recipe, materials: list[Material], start_tail: Tail, device: torch.device
) -> tuple[Tail, list[dict[str, float]]]:
    """Trains by a recipe. A killed training goes on from its last checkpoint.

    Returns:
        the tail in evaluation mode, not yet averaged with the start, and the training curve: step, loss and its terms.
    """
    torch.manual_seed(recipe.seed)
    tail = copy.deepcopy(start_tail).to(device).eval().requires_grad_(True)  # batch normalization keeps its statistics
    centers = [torch.cat(stage).mean(dim=0) for stage in zip(*(one.teacher for one in materials), strict=True)]
    heads = _Heads(materials, centers).to(device)
    trained = [p for p in heads.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": tail.parameters(), "lr": recipe.lr}, {"params": trained, "lr": 10 * recipe.lr}], weight_decay=1e-4
    )
    owner = np.concatenate([np.full(len(one.rows), index) for index, one in enumerate(materials)])
    place = np.concatenate([np.arange(len(one.rows)) for one in materials])
    steps_per_epoch = len(owner) // _BATCH
    total = recipe.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [recipe.lr, 10 * recipe.lr], total_steps=total, pct_start=_WARM_UP
    )
    checkpoint = Unfinished(f"pretrain-{_name_of(recipe, materials)}", device)
    history: list[dict[str, float]] = []
    step, spent = 0, 0.0
    if state := checkpoint.read():
        tail.load_state_dict(state["tail"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step, spent, history = state["step"], state["seconds"], state["history"]
    began = time.monotonic() - spent
    with bar("pretraining", "batch") as show:
        while step < total:
            epoch, within = divmod(step, steps_per_epoch)
            order = np.random.default_rng([recipe.seed, epoch]).permutation(len(owner))
            some = order[within * _BATCH : (within + 1) * _BATCH]
            groups = [(index, np.sort(place[some[owner[some] == index]])) for index in np.unique(owner[some])]
            inputs = torch.cat([materials[index].view(epoch).batch(rows, device) for index, rows in groups])
            if inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            found = heads.unit(tail(inputs))
            supervised = _supervised(heads, found, groups, materials)
            distance = _distance(heads, found, groups, materials)
            loss = supervised + recipe.distill * distance
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(tail.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 20 == 0 or step == total - 1:
                terms = {"loss": loss, "supervised": supervised, "distance": distance}
                row = {name: round(float(value.detach()), 4) for name, value in terms.items()}
                history.append({"step": step, **row, "seconds": round(time.monotonic() - began, 1)})
            step += 1
            if step % _CHECKPOINT_STEPS == 0:
                checkpoint.write({
                    "tail": tail.state_dict(), "heads": heads.state_dict(), "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(), "step": step, "seconds": time.monotonic() - began,
                    "history": history,
                })  # fmt: skip
            show(step, total)
    checkpoint.remove()
    return tail.requires_grad_(False), history


def _name_of(recipe: Recipe, materials: list[Material]) -> str:
    images = [f"{one.part.spec.name}/{name}" for one in materials for name in one.part.listing.ids[one.rows]]
    return sha256_of([canonical_json(as_record(recipe)), *images])[:24]


def _supervised(
    heads: _Heads, found: list[torch.Tensor], groups: list[tuple[int, np.ndarray]], materials: list[Material]
) -> torch.Tensor:
    """Mean loss over the batch's images and the stages."""
    total = torch.zeros((), device=found[0].device)
    at = 0
    for index, rows in groups:
        target = materials[index].labels[rows].to(found[0].device)
        for head, stage in zip(heads.of(index), found, strict=True):
            logits = head(_SCALE * stage[at : at + len(rows)])
            total = total + len(rows) * _loss(logits, target, materials[index].part.spec.task)
        at += len(rows)
    return total / (at * len(found))


def _distance(
    heads: _Heads, found: list[torch.Tensor], groups: list[tuple[int, np.ndarray]], materials: list[Material]
) -> torch.Tensor:
    """1 - cosine between the centered embeddings and the teacher's, the mean over images and stages."""
    device = found[0].device
    wanted = [torch.cat([materials[index].teacher[k][rows] for index, rows in groups]) for k in range(len(found))]
    pairs = zip(found, heads.unit([one.to(device) for one in wanted]), strict=True)
    return 1 - torch.stack([(ours * theirs).sum(dim=1).mean() for ours, theirs in pairs]).mean()


def _loss(logits: torch.Tensor, target: torch.Tensor, task: str) -> torch.Tensor:
    if task != "multilabel":
        if (target == UNLABELLED).all():
            return logits.sum() * 0
        return F.cross_entropy(logits, target.long(), ignore_index=UNLABELLED, label_smoothing=0.1)
    known = ~torch.isnan(target)
    loss = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(target).float(), reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)


def averaged(start: Tail, trained: Tail, share: float) -> Tail:
    """The average of a start's and a trained tail's weights, `share` of it the trained one's."""
    found, state = copy.deepcopy(trained).cpu(), trained.state_dict()
    for key, value in start.state_dict().items():
        if value.is_floating_point():
            state[key] = (1 - share) * value.cpu() + share * state[key].cpu()
    found.load_state_dict(state)
    return found


def as_record(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain values."""
    return asdict(recipe)
