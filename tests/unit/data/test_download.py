"""Downloads, against a stand-in of each publisher: what works is installed, what fails gives one error message."""

import hashlib
import io
import json
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import kagglehub
import medmnist.info
import numpy as np
import pooch
import pytest
import requests
from kagglehub.exceptions import CredentialError, DataCorruptionError, KaggleApiHTTPError, UnauthenticatedError

from core.data import DATASETS
from core.data.download import download_dataset
from core.data.specs import find_dataset, list_images
from core.errors import DataUnavailable
from trainer.cli import main


@pytest.fixture
def publisher():
    """A server on loopback that answers paths with bytes."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = answers.get(self.path.split("?")[0])
            self.send_response(200 if body is not None else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", answers=answers)
    server.shutdown()
    server.server_close()


def nothing_half_fetched(root):
    return not root.exists() or not any(path.name.startswith(".") for path in root.iterdir())


LAYOUTS = {
    "kermany": ["chest_xray/{part}/NORMAL/IM-{i}-1.jpeg", "chest_xray/{part}/PNEUMONIA/person{i}_virus_1.jpeg",
                "chest_xray/chest_xray/{part}/NORMAL/IM-{i}-1.jpeg", "chest_xray/__MACOSX/x"],
    "covid-radiography": ["COVID-19_Radiography_Dataset/COVID/images/COVID-{i}.png",
                          "COVID-19_Radiography_Dataset/COVID/masks/COVID-{i}.png",
                          "COVID-19_Radiography_Dataset/Normal/images/Normal-{i}.png",
                          "COVID-19_Radiography_Dataset/Normal.metadata.xlsx"],
    "nih-chestxray14": ["images_001/images/0000000{i}_000.png", "test_list.txt"],
}  # fmt: skip
NIH_TABLE = "Image Index,Finding Labels,Patient ID\n00000001_000.png,Hernia,1\n00000002_000.png,No Finding,2\n"


@pytest.mark.parametrize("name", LAYOUTS)
def test_kaggle_sets_are_put_where_they_are_looked_for_and_load(name, tmp_path, monkeypatch):
    asked = []

    def download(handle, output_dir):
        asked.append(handle)
        for pattern in LAYOUTS[name]:
            for i in (1, 2):
                path = Path(output_dir, pattern.format(part="train", i=i))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"picture")
        if name == "nih-chestxray14":
            Path(output_dir, "Data_Entry_2017.csv").write_text(NIH_TABLE)

    monkeypatch.setattr(kagglehub, "dataset_download", download)
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    download_dataset(DATASETS[name], tmp_path / "data")
    assert asked == [DATASETS[name].remote.ref]
    assert len(list_images(DATASETS[name])) in (2, 4)
    assert nothing_half_fetched(tmp_path / "data")


def test_what_is_laid_out_otherwise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle, output_dir: None)
    with pytest.raises(DataUnavailable, match="not laid out as expected"):
        download_dataset(DATASETS["kermany"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (CredentialError(), "requires an account"),
        (UnauthenticatedError(), "requires an account"),
        (KaggleApiHTTPError("no", response=SimpleNamespace(status_code=403)), "consent"),
        (KaggleApiHTTPError("no", response=SimpleNamespace(status_code=500)), "status 500"),
        (DataCorruptionError(), "checksum differs"),
        (requests.ConnectionError(), "cannot be reached"),
        (TimeoutError(), "cannot be reached"),
    ],
)
def test_what_kaggle_refuses_is_one_sentence_with_the_way_by_hand(fault, words, tmp_path, monkeypatch, capsys):
    def download(handle, output_dir):
        with open(f"{output_dir}/half.txt", "w") as file:
            file.write("half")
        raise fault

    monkeypatch.setattr(kagglehub, "dataset_download", download)
    with pytest.raises(DataUnavailable, match=words) as told:
        download_dataset(DATASETS["covid-radiography"], tmp_path / "data")
    assert "by hand from https://www.kaggle.com" in str(told.value)
    assert list((tmp_path / "data").iterdir()) == []
    assert main(["data", "get", "covid-radiography", "--to", str(tmp_path / "data")]) == 2
    assert words in capsys.readouterr().err


def as_archive():
    buffer = io.BytesIO()
    arrays = {f"{part}_images": np.zeros((2, 28, 28), np.uint8) for part in ("train", "val", "test")}
    np.savez(buffer, **arrays, **{f"{part}_labels": np.zeros((2, 1), np.uint8) for part in ("train", "val", "test")})
    return buffer.getvalue()


@pytest.fixture
def breastmnist(publisher, monkeypatch):
    facts = medmnist.info.INFO["breastmnist"]
    content = as_archive()
    publisher.answers["/breastmnist.npz"] = content
    changed = facts | {"n_samples": {"train": 2, "val": 2, "test": 2}}
    for size in ("", "_64"):
        changed[f"url{size}"] = f"{publisher.url}/breastmnist.npz"
        changed[f"MD5{size}"] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(medmnist.info.INFO, "breastmnist", changed)
    return changed


@pytest.mark.parametrize(
    ("name", "file"), [("breastmnist", "breastmnist.npz"), ("breastmnist@size=64", "breastmnist_64.npz")]
)
def test_medmnist_files_join_those_that_are_there(breastmnist, name, file, tmp_path):
    (tmp_path / "medmnist").mkdir()
    (tmp_path / "medmnist" / "other.npz").write_bytes(b"kept")
    folder = download_dataset(find_dataset(name), tmp_path)
    assert {path.name for path in folder.iterdir()} == {file, "other.npz"}


def test_a_medmnist_file_with_another_checksum_is_refused(breastmnist, tmp_path, monkeypatch):
    monkeypatch.setitem(breastmnist, "MD5", "0" * 32)
    with pytest.raises(DataUnavailable, match="its checksum differs"):
        download_dataset(DATASETS["breastmnist"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_connection_to_medmnist_is_reported(breastmnist, tmp_path, monkeypatch):
    monkeypatch.setitem(breastmnist, "url", "http://127.0.0.1:1/breastmnist.npz")
    with pytest.raises(DataUnavailable, match="Zenodo cannot be reached"):
        download_dataset(DATASETS["breastmnist"], tmp_path)


@pytest.fixture
def dataverse(publisher, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ISIC_1.jpg", b"picture")
    table = b"lesion_id\timage_id\tdx\nHAM_1\tISIC_1\tmel\n"
    files = {"HAM10000_images_part_1.zip": buffer.getvalue(), "HAM10000_metadata.tab": table, "unwanted.zip": b"x"}
    listed = []
    for number, (name, content) in enumerate(files.items()):
        publisher.answers[f"/api/access/datafile/{number}"] = content
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        listed.append({"dataFile": {"id": number, "filename": name, "md5": digest}})
    answer = {"status": "OK", "data": {"latestVersion": {"files": listed}}}
    publisher.answers["/api/datasets/:persistentId"] = json.dumps(answer).encode()
    publisher.answers["/citation"] = b""
    monkeypatch.setattr(pooch.downloaders, "doi_to_url", lambda *_, **__: f"{publisher.url}/citation")
    return publisher


def test_ham10000_comes_from_dataverse_unpacked(dataverse, tmp_path):
    folder = download_dataset(DATASETS["ham10000"], tmp_path)
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == ["HAM10000_metadata.tab", "images/ISIC_1.jpg"]
    from core.data.datasets.ham10000 import load

    assert load(folder).labels.tolist() == [4]


def test_what_dataverse_sends_wrongly_is_refused(dataverse, tmp_path):
    dataverse.answers["/api/access/datafile/0"] = b"something else"
    with pytest.raises(DataUnavailable, match="differs from its description"):
        download_dataset(DATASETS["ham10000"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_data_sets_given_on_application_name_the_place(tmp_path, capsys):
    assert main(["data", "get", "chexpert", "--to", str(tmp_path)]) == 2
    assert "application at https://stanfordmlgroup" in capsys.readouterr().err
    with pytest.raises(DataUnavailable, match="cannot be downloaded automatically"):
        download_dataset(replace(DATASETS["malaria"], remote=None), tmp_path)


def test_data_list_shows_every_set(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path))
    assert main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(rows) == set(DATASETS)
    assert rows["phantom"]["present"]
    assert not rows["kermany"]["present"]
    assert "data get kermany" in rows["kermany"]["missing"]
    assert all(row["licence"] for row in rows.values())
    assert main(["data", "list"]) == 0
    assert "not on this machine" in capsys.readouterr().out
