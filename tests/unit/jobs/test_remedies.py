"""Which action is offered for the reasons that failed jobs really give."""

import errno
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import BadRequest
from core.jobs import records
from core.jobs.records import Job, State
from core.jobs.remedies import remedy_of, without_weights
from tests.unit.jobs.test_records import REQUEST
from trainer.cli import explain
from trainer.training.run_plan import check_batch
from trainer.training.settings import Settings


def failed(why, **request):
    return Job(None, replace(REQUEST, **request), State("failed", why=why))


def too_few():
    with pytest.raises(BadRequest) as caught:
        check_batch(Settings(epochs=1, min_steps=1, batch_size=8, lr=0.1, weight_decay=0.0), np.array([0, 1]))
    return caught.value


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "space"),
        (MemoryError(), "fewer"),
        (torch.OutOfMemoryError("CUDA out of memory"), "fewer"),
        (KeyboardInterrupt(), "continue"),
        (BadRequest("The file is gone."), "continue"),
    ],
)
def test_errors_of_the_trainer_have_a_remedy(error, remedy):
    assert remedy_of(failed(explain(error)[1])) == remedy


def test_too_few_images_ask_for_more():
    assert remedy_of(failed(str(too_few()))) == "more"


@pytest.mark.parametrize(
    ("code", "remedy"), [(-9, "fewer"), (-7, "space"), (74, "space"), (-15, "continue"), (None, "continue")]
)
def test_processes_that_ended_without_a_word_have_one_too(code, remedy, tmp_path):
    job = records.create(tmp_path, REQUEST)
    assert remedy_of(replace(job, state=records.final_state(job, code, 9.0))) == remedy


def test_missing_weights_are_named(no_weights):
    model = "imagenet-resnet50"
    request = replace(REQUEST, models=("scratch-cnn", model, "no-such-model"))
    assert without_weights(request) == [model]
    assert remedy_of(failed("It could not be trained here.", models=request.models)) == "weights"
