"""Losses, optimizers and schedules: against independent implementations, at the edges, and as settings of a run."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.errors import BadRequest, UnknownName
from core.models.classifier import mlp_layers
from core.runs import open_store
from trainer.training.auc_margin import MARGIN, AucMargin, Pesg, auc_margin_at_optimum
from trainer.training.heads import fit_mlp, logits_of
from trainer.training.losses import LOSSES, loss_for
from trainer.training.optimizers import OPTIMIZERS, SCHEDULES, schedule_for
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell, Settings

SETTINGS = Settings(epochs=4, min_steps=40, batch_size=16, lr=1e-2, weight_decay=0.0, augment="none")
NAN = float("nan")


@pytest.fixture(scope="module")
def phantom():
    return load_dataset(DATASETS["phantom"])


def batches(findings=False, steps=6, size=32):
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        inputs = torch.randn(size, 5, generator=random)
        labels = (inputs[:, : 3 if findings else 1] + torch.randn(size, 1, generator=random) > 0.8).long()
        yield inputs, labels.float() if findings else labels[:, 0]


@pytest.mark.parametrize("findings", [False, True])
def test_auc_margin_and_pesg_agree_with_libauc(findings):
    """The same net on the same batches, over steps of two stages: equal losses, weights and auxiliary variables."""
    from libauc.losses.auc import AUCMLoss, MultiLabelAUCMLoss
    from libauc.optimizers.pesg import PESG

    torch.manual_seed(0)
    ours = torch.nn.Linear(5, 3 if findings else 2).double()
    theirs, names = copy.deepcopy(ours), ("a", "b", "alpha")
    loss = AucMargin(3 if findings else 1).double()
    reference = MultiLabelAUCMLoss(num_labels=3, device="cpu") if findings else AUCMLoss(device="cpu")
    for name in names:
        getattr(reference, name).data = getattr(reference, name).data.double()
    optimizer = Pesg([{"params": list(ours.parameters())}], loss, 0.1, 1e-5, restarts=[3])
    other = PESG(theirs.parameters(), loss_fn=reference, lr=0.1, weight_decay=1e-5, verbose=False, device="cpu")
    for place, start in zip(other.model_ref, [*theirs.parameters(), reference.a, reference.b], strict=True):
        place.data = start.data.clone()  # LibAUC draws its first reference; ours is the start
    for step, (inputs, labels) in enumerate(batches(findings)):
        mine = loss(ours(inputs.double()), labels, None)
        logits = theirs(inputs.double())
        scores = logits.sigmoid() if findings else (logits[:, 1:] - logits[:, :1]).sigmoid()
        yours = reference(scores, labels if findings else labels[:, None])
        assert mine.item() == pytest.approx(yours.item(), abs=1e-9)
        for one, value in ((optimizer, mine), (other, yours)):
            one.zero_grad()
            value.sum().backward()
            one.step()
        reference.alpha.grad = None
        if step == 2:
            other.update_regularizer(decay_factor=1)
        for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(first, second, atol=1e-9)
        for name in names:
            assert torch.allclose(getattr(loss, name), getattr(reference, name), atol=1e-9)
    assert (loss.alpha > 0).all()


def test_the_loss_of_held_out_images_is_minimal_for_correct_predictions():
    inputs, labels = next(batches())
    logits = torch.stack([-inputs[:, 0], inputs[:, 1]], dim=1).double()
    scores, p = (logits[:, 1] - logits[:, 0]).sigmoid(), labels.double().mean()
    loss = AucMargin(1).double()
    with torch.no_grad():
        loss.a.fill_(scores[labels == 1].mean())
        loss.b.fill_(scores[labels == 0].mean())
        loss.alpha.copy_(MARGIN + loss.b - loss.a)
    assert float(auc_margin_at_optimum(logits, labels)) == pytest.approx(
        (loss(logits, labels, None) / (p * (1 - p))).item()
    )


def test_unknown_findings_do_not_count():
    torch.manual_seed(0)
    logits = torch.randn(6, 2)
    labels = torch.tensor([[1.0, NAN], [0, NAN], [1, NAN], [NAN, 1], [NAN, 0], [NAN, 1]])
    for name in ("masked-bce", "focal", "auc-margin"):
        loss = LOSSES[name].build(SETTINGS, 2, True)
        parts = [loss(logits[:3].clone().requires_grad_(), labels[:3], None)]
        changed = logits.clone()
        changed[:3, 1], changed[3:, 0] = 9.0, -9.0
        assert loss(changed, labels, None).item() == pytest.approx(loss(logits, labels, None).item())
        assert torch.isfinite(torch.stack(parts)).all()


def test_focal_and_smoothed_losses_equal_independent_ones():
    from torchvision.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    logits, labels, weights = torch.randn(20, 3), torch.arange(20) % 3, torch.tensor([0.5, 1.0, 2.0])
    p = logits.softmax(1)[torch.arange(20), labels]
    each = -((1 - p) ** 2) * p.log()
    focal = LOSSES["focal"].build(SETTINGS, 3, False)
    assert float(focal(logits, labels, None)) == pytest.approx(float(each.mean()), abs=1e-6)
    weighted = (each * weights[labels]).sum() / weights[labels].sum()
    assert float(focal(logits, labels, weights)) == pytest.approx(float(weighted), abs=1e-6)
    findings = torch.randint(0, 2, (20, 3)).float()
    expected = sigmoid_focal_loss(logits, findings, alpha=-1, gamma=2, reduction="mean")
    assert float(LOSSES["focal"].build(SETTINGS, 3, True)(logits, findings, None)) == pytest.approx(float(expected))
    smooth = Settings(1, 1, 1, 1.0, 0.0, label_smoothing=0.2)
    shares = F.one_hot(labels, 3) * 0.8 + 0.2 / 3
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    assert float(LOSSES["cross-entropy"].build(smooth, 3, False)(logits, labels, None)) == pytest.approx(
        float(expected)
    )
    expected = F.binary_cross_entropy_with_logits(logits, findings * 0.8 + 0.1)
    assert float(LOSSES["masked-bce"].build(smooth, 3, True)(logits, findings, None)) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("labels", [[0, 1, 0], [0, 0, 0], [1, 1, 1], [1]])
def test_saturated_logits_and_lopsided_batches_give_finite_losses_and_gradients(name, labels):
    row = LOSSES[name]
    truth = torch.tensor(labels)
    for findings in [kind for kind, takes in ((False, row.classes), (True, row.findings)) if takes]:
        targets = F.one_hot(truth, 2).float() if findings else truth
        for size in (1e4, 0.0, -1e4):
            logits = torch.tensor([[-size, size]] * len(labels), requires_grad=True)
            loss = row.build(SETTINGS, 2, findings)(logits, targets, None)
            loss.backward()
            assert torch.isfinite(loss).all()
            assert torch.isfinite(logits.grad).all()
            assert np.isfinite(row.held_out_loss(logits.detach().numpy(), targets.numpy()))


@pytest.mark.parametrize(
    ("loss", "optimizer", "schedule"),
    [("", name, "one-cycle") for name in OPTIMIZERS if name != "pesg"]
    + [(name, "adamw", "one-cycle") for name in LOSSES if not LOSSES[name].optimizer and LOSSES[name].classes]
    + [("", "adamw", name) for name in SCHEDULES]
    + [("auc-margin", "pesg", name) for name in SCHEDULES],
)
def test_every_loss_optimizer_and_schedule_learns(loss, optimizer, schedule):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    embeddings = (random.normal(size=(60, 1, 8)) + 2 * labels[:, None, None]).astype(np.float32)
    settings = Settings(
        epochs=30, min_steps=0, batch_size=20, lr=0.1 if optimizer in ("pesg", "sgd") else 1e-2, weight_decay=1e-4,
        loss=loss, optimizer=optimizer, schedule=schedule, augment="none",
    )  # fmt: skip
    layers = fit_mlp(mlp_layers(8, 2), embeddings, labels, settings, 0)
    assert (logits_of(layers, embeddings[:, 0]).argmax(1) == labels).mean() > 0.95


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_have_their_shape(name):
    weights = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=1.0)
    schedule = schedule_for(Settings(1, 1, 1, 1.0, 0.0, schedule=name), optimizer, 100, 0.2)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < 100 else None
    shape = {
        "one-cycle": (0.04, 1.0, 0.0), "cosine": (1.0, np.cos(np.pi / 5) / 2 + 0.5, 0.0),
        "constant": (1.0, 1.0, 1.0), "step": (1.0, 1.0, 0.01),
    }[name]  # fmt: skip
    assert [rates[0], rates[20], rates[-1]] == pytest.approx(shape, abs=0.011)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", range(1, 12))
def test_schedules_take_any_number_of_steps(name, steps):
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    for warm_up in (0.2, 0.3):
        schedule = schedule_for(Settings(1, 1, 1, 1.0, 0.0, schedule=name), optimizer, steps, warm_up)
        for _ in range(steps):
            optimizer.step()
            schedule.step()
            assert 0 <= optimizer.param_groups[0]["lr"] <= 1


def test_auc_margin_brings_its_recipe_and_the_run_records_it(phantom):
    def ask(**options):
        return plan_run(Cell("phantom", "scratch-cnn", "scratch", 10, 0), phantom, options)

    asked = ask(loss="auc-margin")
    assert (asked.settings.optimizer, asked.settings.lr, asked.settings.batch_size) == ("pesg", 0.1, 128)
    assert "loss=auc-margin" in asked.setup.variant
    assert ask(loss="auc-margin", lr=0.05).settings.lr == 0.05
    plain = ask()
    assert ask(loss="cross-entropy", optimizer="adamw", schedule="one-cycle").setup.run == plain.setup.run
    assert ask(loss="focal").setup.run != plain.setup.run
    assert plain.setup.variant == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "hinge"}, "no loss named"),
        ({"optimizer": "adm"}, "Did you mean 'adamw'|Did you mean 'adam'"),
        ({"schedule": "linear"}, "no schedule named"),
        ({"rate": 1.0}, "no setting named"),
        ({"loss": "masked-bce"}, "does not take one class an image"),
        ({"loss": "auc-margin", "optimizer": "adamw"}, "works only with the optimizer pesg"),
        ({"optimizer": "pesg"}, "Add --loss auc-margin"),
        ({"loss": "auc-margin", "imbalance": "class-weights"}, "does not take class weights"),
        ({"loss": "auc-margin", "augment": "mixup"}, "mixes"),
        ({"loss": "focal", "label_smoothing": 0.1}, "smoothed"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"lr": 0.0}, "above 0"),
        ({"lr": "fast"}, "a number"),
        ({"epochs": 2.5}, "a whole number"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_training(phantom, options, said):
    with pytest.raises((BadRequest, UnknownName), match=said):
        plan_run(Cell("phantom", "scratch-cnn", "scratch", 10, 0), phantom, options)


def test_a_strategy_refuses_settings_that_it_would_ignore(phantom):
    with pytest.raises(BadRequest, match="does not take --loss; it takes --augment"):
        plan_run(Cell("phantom", "control-random-frozen", "frozen-logistic", 4, 0), phantom, {"loss": "focal"})
    with pytest.raises(BadRequest, match="two classes"):
        loss_for(Settings(1, 1, 1, 1.0, 0.0, loss="auc-margin"), np.arange(6) % 3, 3)


def test_settings_are_flags_and_a_file_of_the_command_line(runs, tmp_path, capsys):
    from trainer.cli import main

    argv = ["run", "--dataset", "phantom", "--model", "scratch-cnn", "--strategy", "scratch", "--size", "4"]
    file = tmp_path / "tuned.json"
    file.write_text('{"settings": {"loss": "focal", "lr": 0.002, "epochs": 1, "min_steps": 1}}')
    assert main([*argv, "--settings", str(file), "--lr", "0.01", "--schedule", "cosine"]) == 0
    meta = next(iter(open_store(runs).runs.values()))
    assert meta.variant == "epochs=1, min_steps=1, lr=0.01, loss=focal, schedule=cosine"
    file.write_text("[]")
    assert main([*argv, "--settings", str(file)]) == 2
    assert "a JSON object of settings" in capsys.readouterr().err
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*LOSSES, *OPTIMIZERS, *SCHEDULES, "class-weights"))
