"""Separators that come trained, through the task `separation`."""

# Codecs and tables by what they are, not by their type.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import json
import sys
import types

import pytest
import torch
from cml.tasks.separation import Separation
from stem_pieces import RATE, STEMS, slakh

import cml
from cml.errors import CmlError
from cml.models import demucs
from cml.models.backbones import StemShape


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Codecs are timed for a moment only."""
    monkeypatch.setattr("cml.eval.complexity._SECONDS", 0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return slakh(tmp_path_factory.mktemp("slakh"))


class StandIn(torch.nn.Module):
    """In the place of a trained Demucs: it hears half of everything as drums, and so on."""

    sources, samplerate, audio_channels = ["drums", "bass", "other", "vocals"], 2 * RATE, 2

    def __init__(self):
        super().__init__()
        self.shares = torch.nn.Parameter(torch.tensor([0.5, 0.25, 0.15, 0.1]))


@pytest.fixture
def stand_in(monkeypatch):
    """The package demucs, as far as it is used."""
    package, hf, apply = (types.ModuleType(name) for name in ("demucs", "demucs.hf", "demucs.apply"))

    def separate(model, mixture, shifts):
        assert (
            mixture.shape[1] == 2 and shifts == 0 and abs(float(mixture.mean(1).std()) % 1 - 0.5) > 0.45
        )  # 1, of silence 0
        return mixture[:, None] * model.shares.detach()[:, None, None]

    for name, value in (("get_hf_model", lambda name: StandIn()), ("load_safetensors_model", None)):
        setattr(hf, name, value)
    apply.apply_model, apply.BagOfModels = separate, None  # pyright: ignore[reportAttributeAccessIssue]
    package.hf, package.apply = hf, apply  # pyright: ignore[reportAttributeAccessIssue]
    for module in (package, hf, apply):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return hf


def test_stems_of_a_trained_model():
    sources = ["drums", "bass", "other", "vocals"]
    assert demucs.share(sources, ["drums", "bass", "keys", "winds"]) == (
        {"drums": [0], "bass": [1], "other": [2]}, {"drums": [0], "bass": [1], "other": [2, 3]},
    )  # fmt: skip
    theirs, ours = demucs.share(sources, ["vocals", "guitar", "piano_synth", "bass_drums"])
    assert theirs == {"vocals": [3], "other": [2], "bass_drums": [1, 0]}
    assert ours == {"vocals": [0], "other": [1, 2], "bass_drums": [3]}
    for stems in (["keys", "winds"], ["a"]):
        with pytest.raises(CmlError, match="do not go together"):
            demucs.share(sources, stems)
    with pytest.raises(CmlError, match="do not go together"):
        demucs.share(["drums", "bass"], ["drums", "keys"])


def test_demucs_reads_originals_and_decoded_sound(stand_in, tmp_path):
    data = slakh(tmp_path / "data")
    index = json.loads((tmp_path / "data" / "index.json").read_text())
    for piece in index["pieces"]:
        for old, new in zip(STEMS, ("drums", "keys"), strict=True):
            place = tmp_path / "data" / piece["name"]
            (place / f"{old}.flac").rename(place / f"{new}.flac")
    (tmp_path / "data" / "index.json").write_text(json.dumps(index | {"stems": ["drums", "keys"]}))
    task = Separation(data, "demucs:htdemucs")
    assert task.frozen and task.stems == ("drums", "other") and task.views == ("waveform", "reconstruction")
    x = torch.sin(torch.arange(4000) / 5)[None, None]
    model, _ = task.build(StemShape(1, (4000,), 1), 0)
    heard = model(x)
    assert heard.shape == (1, 2, 4000)
    assert float((heard[0, 0] - 0.5 * x[0, 0])[500:-500].abs().max()) < 0.01
    assert float((heard[0, 1] - 0.15 * x[0, 0])[500:-500].abs().max()) < 0.01
    table = cml.compare("separation", data, ["resample:factor=2"], backbone="demucs:htdemucs", out=tmp_path / "run")
    assert not table.attrs["failed"] and list(table["view"]) == ["waveform", "reconstruction"]
    assert table["si_sdr_improvement"][0] == pytest.approx(0, abs=0.2)  # its answers are the mixture
    with pytest.raises(CmlError, match="no size and no epochs"):
        Separation(data, "demucs:htdemucs", epochs=3)
    with pytest.raises(CmlError, match="leave --seeds out"):
        cml.compare("separation", data, ["resample:factor=2"], backbone="demucs:htdemucs", seeds=3, out=tmp_path / "r")


def test_demucs_out_of_reach(stand_in, data, tmp_path, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(stand_in, "get_hf_model", offline)
    with pytest.raises(CmlError, match=r"Cannot fetch the Demucs model 'htdemucs' .* demucs:FOLDER"):
        demucs.load_demucs("htdemucs")
    with pytest.raises(CmlError, match="holds no Demucs model"):
        demucs.load_demucs(str(tmp_path))
    monkeypatch.setitem(sys.modules, "demucs", None)
    with pytest.raises(CmlError, match="pip install"):
        Separation(data, "demucs:htdemucs")


def test_the_real_package(data, tmp_path):
    """A tiny network of random weights, saved as the hub has them."""
    pytest.importorskip("demucs")
    from demucs.htdemucs import HTDemucs  # pyright: ignore[reportMissingImports]
    from safetensors.torch import save_file

    options = {
        "sources": ["drums", "bass", "other", "vocals"], "audio_channels": 2, "samplerate": RATE, "segment": 1,
        "channels": 8, "depth": 2, "t_layers": 1, "t_heads": 1, "bottom_channels": 8, "nfft": 256, "norm_starts": 9,
    }  # fmt: skip
    torch.manual_seed(0)
    model = HTDemucs(**options)
    about = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(options)}
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "abc.safetensors", metadata=about)
    (tmp_path / "tiny.yaml").write_text("models: ['abc']\n")
    loaded = demucs.load_demucs(str(tmp_path))
    assert loaded.sources == tuple(options["sources"]) and loaded.rate == RATE
    separator = demucs.DemucsStems(loaded, [[0], [1, 2]], RATE)
    with torch.no_grad():
        assert separator(torch.randn(1, 1, 9_000)).shape == (1, 2, 9_000)
    save_file({"a": torch.zeros(1)}, tmp_path / "abc.safetensors", metadata=about | {"klass": "os.system"})
    with pytest.raises(CmlError, match=r"names the class 'os\.system'"):
        demucs.load_demucs(str(tmp_path))
    (tmp_path / "abc.safetensors").write_bytes(b"nothing")
    with pytest.raises(CmlError, match="does not describe a Demucs model"):
        demucs.load_demucs(str(tmp_path))
