"""`predict` runs the image check first, and only with the check made for the data set."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core.analysis.contest import default_networks
from core.data.datasets.phantom import phantom_at
from core.inference.image_check import open_image_checker, read_image_check, save_image_check
from core.paths import runs_folder
from core.runs import open_store
from trainer.cli import main


@pytest.fixture
def pictures(tmp_path):
    """A phantom, and noise."""
    good, odd = tmp_path / "phantom.png", tmp_path / "noise.png"
    Image.fromarray(phantom_at(5001).pixels).save(good)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)).save(odd)
    return [str(good), str(odd)]


@pytest.fixture
def one_run(runs):
    """A store of one shipped phantom run, with its image check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LOWSHOT_RUNS")
        shipped = runs_folder()
        folder, meta = default_networks(open_store(), "phantom")["imagenet"]
    shutil.copytree(folder, runs / "phantom" / meta.run)
    shutil.copy(shipped / "phantom" / "image-check.npz", runs / "phantom")
    return meta


def predict(capsys, argv):
    """Exit code, rows, and what was said beside them."""
    code = main(["predict", *argv, "--dataset", "phantom", "--json"])
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_a_refused_image_gets_a_reason_and_no_prediction_unless_overridden(one_run, pictures, capsys):
    code, rows, _ = predict(capsys, pictures)
    assert code == 0
    assert [row.get("image_check") for row in rows] == ["admitted", None]
    assert "unlike the training images" in rows[1]["refused"]
    assert "probability" not in rows[1]
    assert predict(capsys, pictures[1:])[0] == 1
    code, rows, _ = predict(capsys, [*pictures, "--despite-image-check"])
    assert [row["image_check"] for row in rows] == ["admitted", "refused"]
    assert main(["predict", pictures[1], "--dataset", "phantom", "--despite-image-check"]) == 0
    assert "(REFUSED by the image check)" in capsys.readouterr().out
    assert main(["predict", pictures[1], "--dataset", "phantom"]) == 1
    assert "refused by the image check: It is unlike" in capsys.readouterr().out


def test_an_image_check_made_from_other_images_is_not_used(one_run, runs, pictures, capsys):
    folder = runs / "phantom"
    assert open_image_checker(folder, {one_run.fingerprint}) is not None
    save_image_check(folder, replace(read_image_check(folder), fingerprint="another"))
    code, rows, said = predict(capsys, pictures[:1])
    assert (code, rows) == (2, [])
    assert "made from other images" in said
    assert "Make it again: python -m trainer image-check, with the --dataset or --folder of the networks." in said
    code, rows, said = predict(capsys, [*pictures, "--despite-image-check"])
    assert [row["image_check"] for row in rows] == [None, None]
    assert "images are not checked" in said


def test_without_an_image_check_any_image_is_predicted_and_that_is_reported(one_run, runs, pictures, capsys):
    (runs / "phantom" / "image-check.npz").unlink()
    code, rows, said = predict(capsys, pictures)
    assert (code, len(rows)) == (0, 2)
    assert "phantom has no image check" in said
