"""Where samples come from: listed without reading them, then read by index, in any process."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import photo
from PIL import Image

import cml
from cml.data.source_wds import expand_braces
from cml.data.sources import Source, open_source
from cml.errors import DataError


def picture(path: Path, seed: int = 0, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cml.write_image(path, photo((24, 20), channels, seed).float() / 127.5 - 1)
    return path


def ids(source: Source, split: str = "train") -> list[str]:
    return source.splits[split]["id"].to_pylist()


def labels(source: Source, split: str = "train") -> list[int]:
    return source.splits[split]["label"].to_pylist()


def test_a_flat_folder(tmp_path):
    for name in ("b.png", "a.png", "c.JPG", "note.txt", ".hidden.png", "x.wav"):
        (tmp_path / name).write_bytes(b"no picture")
    picture(tmp_path / "a.png", 3)
    source = open_source(tmp_path)
    assert (source.name, source.classes, list(source.splits)) == (tmp_path.name, None, ["train"])
    assert ids(source) == ["a.png", "b.png", "c.JPG"] and source.splits["train"].column_names == ["id"]
    sample = source.read("train", 0)
    assert torch.equal(sample.signal, photo((24, 20), seed=3))
    assert (sample.source_bytes, sample.sampling_rate) == ((tmp_path / "a.png").stat().st_size, None)
    with pytest.raises(DataError, match=r"Cannot read .*b\.png"):
        source.read("train", 1)


def test_class_folders_are_listed_in_an_order_that_mixes_them(tmp_path):
    for number in range(30):
        picture(tmp_path / "ab"[number % 2] / "deep" / f"{number:02d}.png", number)
    (tmp_path / "empty").mkdir()
    source = open_source(tmp_path)
    assert source.classes == ("a", "b") and len(source) == 30
    for name, label in zip(ids(source), labels(source), strict=True):
        assert name.split("/")[:2] == ["ab"[label], "deep"]
    assert 8 > sum(labels(source)[:10]) > 2, "a shard of ten would hold one class"
    picture(tmp_path / "a" / "new.png")
    rest = [name for name in ids(open_source(tmp_path)) if name != "a/new.png"]
    assert rest == ids(source), "a new file leaves the order of the others alone"


def test_split_folders(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png")
    picture(tmp_path / "train" / "b" / "1.png")
    picture(tmp_path / "val" / "c" / "1.png")
    picture(tmp_path / "test" / "1.png")
    source = open_source(tmp_path)
    assert list(source.splits) == ["train", "val", "test"] and source.classes == ("a", "b", "c")
    assert (labels(source, "val"), labels(source, "test")) == ([2], [-1])
    assert ids(source, "test") == ["test/1.png"]
    picture(tmp_path / "other" / "1.png")
    with pytest.raises(DataError, match=r"other/1\.png .* belongs to no split"):
        open_source(tmp_path)


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="There is no folder nowhere, and no source"):
        open_source("nowhere")
    with pytest.raises(DataError, match=r"holds no pictures \(.*\.png"):
        open_source(tmp_path)
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "2.png")
    with pytest.raises(DataError, match=r"both loose \(2\.png\) and in class folders"):
        open_source(tmp_path)


def test_the_revision_follows_names_sizes_labels_and_content(tmp_path):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.bmp", number)
        picture(tmp_path / "b" / f"{number}.bmp", number)
    seen = {open_source(tmp_path).revision}
    assert open_source(tmp_path).revision in seen
    picture(tmp_path / "a" / "0.bmp", 9)  # as large as before
    seen.add(open_source(tmp_path).revision)
    (tmp_path / "a" / "0.bmp").rename(tmp_path / "a" / "9.bmp")
    seen.add(open_source(tmp_path).revision)
    (tmp_path / "a").rename(tmp_path / "c")
    seen.add(open_source(tmp_path).revision)
    assert len(seen) == 4


def test_grey_pictures_are_recognised(tmp_path):
    picture(tmp_path / "a.png", channels=1)
    assert open_source(tmp_path).channels() == 1
    picture(tmp_path / "b.png")
    assert open_source(tmp_path).channels() == 3


def test_the_data_sets_of_cml_keep_their_splits(picture_folder):
    data = cml.load_dataset(f"folder:{picture_folder}")
    source = open_source(f"folder:{picture_folder}")
    assert (source.classes, source.revision, source.channels()) == (data.classes, data.revision, 1)
    for split, part in (("train", data.train), ("test", data.test)):
        names = [path.relative_to(picture_folder).as_posix() for path in part.paths]
        expected = dict(zip(names, part.labels, strict=True))
        assert dict(zip(ids(source, split), labels(source, split), strict=True)) == expected
        assert torch.equal(source.read(split, 2).signal, cml.read_image(picture_folder / ids(source, split)[2]))
    with pytest.raises(DataError, match="holds pictures, and the codec takes sound"):
        open_source(f"folder:{picture_folder}", 1)


def test_sound(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    wave = np.stack([np.sin(np.arange(800) / 9), np.cos(np.arange(800) / 5)], 1) * 0.5
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    soundfile.write(tmp_path / "b.flac", wave[:, 0], 8000)
    (tmp_path / "c.ogg").write_bytes(b"no sound")
    source = open_source(tmp_path, ndim=1)
    sample = source.read("train", 0)
    assert (sample.signal.dtype, sample.signal.shape, sample.sampling_rate) == (torch.float32, (2, 800), 16000)
    assert np.allclose(sample.signal.numpy().T, wave, atol=1e-4)
    assert (source.read("train", 1).signal.shape, source.read("train", 1).sampling_rate) == ((1, 800), 8000)
    with pytest.raises(DataError, match=r"Cannot read .*c\.ogg as sound"):
        source.read("train", 2)


def test_volumes(tmp_path):
    volume = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    np.save(tmp_path / "a.npy", volume)
    np.save(tmp_path / "b.npy", np.stack([volume] * 2).astype(">f4") / 255)
    np.save(tmp_path / "c.npy", volume[0])
    np.save(tmp_path / "d.npy", np.array([{}], object), allow_pickle=True)
    source = open_source(tmp_path, ndim=3)
    assert torch.equal(source.read("train", 0).signal, torch.from_numpy(volume)[None])
    assert source.read("train", 1).signal.shape == (2, 4, 5, 6)
    with pytest.raises(DataError, match=r"c\.npy is no volume"):
        source.read("train", 2)
    with pytest.raises(DataError, match=r"Cannot read .*d\.npy as an array"):
        source.read("train", 3)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo((24, 20), seed=seed).permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def test_tar_files(tmp_path):
    facts = json.dumps({"id": 7, "width": 20, "tags": ["x"], "by": "me"}).encode()
    tar(tmp_path / "s-train-00.tar", {"./d/a.png": png(1), "./d/a.cls": b"3", "./d/a.json": facts, "d/a.txt": b"?"})
    tar(tmp_path / "s-train-01.tar", {"c.cls": b"1\n", "b.png": png(2), "b.cls": b"0", "c.png": b"no picture"})
    tar(tmp_path / "s-val-00.tar", {"e.seg.png": png(4), "e.png": png(3), "e.cls": b"2", "e.json": b'{"width": 9}'})
    source = open_source(f"wds:{tmp_path}/s-{{train-{{00..01}},val-00}}.tar".replace("{train-{00..01},val-00}", "*"))
    assert (ids(source), labels(source)) == (["d/a", "b", "c"], [3, 0, 1])
    assert source.splits["train"].select(["by", "id_", "width"]).to_pylist()[:2] == [
        {"by": "me", "id_": 7, "width": 20}, {"by": None, "id_": None, "width": None},
    ]  # fmt: skip
    assert source.splits["val"].schema == source.splits["train"].schema
    again = pickle.loads(pickle.dumps(source))
    for split, index, seed in (("train", 0, 1), ("train", 1, 2), ("val", 0, 3)):
        assert torch.equal(again.read(split, index).signal, photo((24, 20), seed=seed))
    assert source.read("train", 0).source_bytes == len(png(1))
    with pytest.raises(DataError, match=r"^Cannot read c as a picture: [^/]*$"):  # and no word of a temporary file
        source.read("train", 2)
    braces = open_source(f"wds:{tmp_path}/s-train-{{00..01}}.tar")
    assert ids(braces) == ids(source) and list(braces.splits) == ["train"]


def test_tar_files_that_are_refused(tmp_path):
    whole = tar(tmp_path / "a.tar", {"a.png": png(1), "b.png": png(2), "b.cls": b"1"})
    with pytest.raises(DataError, match=r"a has no \.cls member"):
        open_source(f"wds:{whole}")
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:1600])
    with pytest.raises(DataError, match="no whole, uncompressed tar file"):
        open_source(f"wds:{tmp_path}/cut.tar")
    tar(tmp_path / "named.tar", {"a.png": png(1), "a.cls": b"cat"})
    with pytest.raises(DataError, match=r"named\.tar, member a\.cls: .*class numbers"):
        open_source(f"wds:{tmp_path}/named.tar")
    one = tar(tmp_path / "one.tar", {"a.png": png(1)})
    with pytest.raises(DataError, match="two samples with the id 'a'"):
        open_source(f"wds:{tmp_path}/{{one,{one.name[:3]}}}.tar")
    with pytest.raises(DataError, match=r"There is no file .*none\.tar"):
        open_source(f"wds:{tmp_path}/none.tar")
    with pytest.raises(DataError, match="matches no file"):
        open_source(f"wds:{tmp_path}/none-*.tar")


def test_braces():
    assert expand_braces("a-{08..10}.{tar,x}") == ["a-08.tar", "a-08.x", "a-09.tar", "a-09.x", "a-10.tar", "a-10.x"]
    assert expand_braces("plain") == ["plain"]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Where `datasets` lays out what it reads, and no progress bars."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


def test_a_folder_of_parquet_files(hub_cache, tmp_path):
    datasets = hub_cache
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "shape": datasets.Value("string"),
         "score": datasets.Value("float32"), "box": datasets.List(datasets.Value("int32"))}
    )  # fmt: skip
    for split, count in (("train", 3), ("test", 2)):
        rows = {
            "img": [{"bytes": png(n), "path": None} for n in range(count)], "label": [1, 0, None][:count],
            "shape": ["round"] * count, "score": [0.5] * count, "box": [[1, 2]] * count,
        }  # fmt: skip
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "set" / f"{split}-00000.parquet")
    source = open_source(f"hf:{tmp_path / 'set'}")
    assert source.classes == ("cat", "dog") and list(source.splits) == ["train", "test"]
    assert (ids(source), labels(source)) == (["train/0", "train/1", "train/2"], [1, 0, -1])
    assert source.splits["test"].to_pylist()[1] == {"id": "test/1", "label": 0, "shape_": "round", "score": 0.5}
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.read("test", 1).signal, photo((24, 20), seed=1))
    assert again.read("test", 1).source_bytes == len(png(1)) and source.channels() == 3
    with pytest.raises(DataError, match=r"no column of sound; its columns are img \(Image\), label"):
        open_source(f"hf:{tmp_path / 'set'}", 1)


def test_ids_of_a_hub_data_set_are_kept_where_they_are_unique(hub_cache, tmp_path):
    datasets = hub_cache
    features = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()})
    for name, own in (("unique", ["x", "y"]), ("twice", ["x", "x"])):
        rows = {"id": own, "image": [{"bytes": png(n), "path": None} for n in range(2)]}
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / name / "train.parquet")
    assert ids(open_source(f"hf:{tmp_path / 'unique'}")) == ["x", "y"]
    twice = open_source(f"hf:{tmp_path / 'twice'}").splits["train"]
    assert twice.to_pylist() == [{"id": "train/0", "id_": "x"}, {"id": "train/1", "id_": "x"}]


def test_sound_of_the_hub(hub_cache, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    datasets, buffer = hub_cache, io.BytesIO()
    wave = np.sin(np.arange(400) / 9) * 0.5
    soundfile.write(buffer, wave, 8000, format="WAV")
    column = [{"bytes": buffer.getvalue(), "path": None}, {"bytes": None, "path": None}]
    schema = datasets.Features({"audio": datasets.Audio()}).arrow_schema
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"audio": column}, schema), tmp_path / "set" / "train.parquet")
    source = open_source(f"hf:{tmp_path / 'set'}", 1)
    sample = source.read("train", 0)
    assert (sample.signal.shape, sample.sampling_rate) == ((1, 400), 8000)
    with pytest.raises(DataError, match="train/1 is empty"):
        source.read("train", 1)


def test_a_hub_data_set_that_cannot_be_reached_says_what_to_do(hub_cache, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"Cannot load the data set 'no/such' .*hf:FOLDER"):
        open_source("hf:no/such")
    with pytest.raises(DataError, match="Cannot load the data set"):
        open_source(f"hf:{tmp_path}/nothing")
