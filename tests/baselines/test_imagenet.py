"""The ImageNet row: timm's file loads whole, features are timm's own, and without that file there is no such row."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from baselines.cards import IMAGENET_RESNET50, TIMM_RESNET50
from baselines.imagenet import SPECS, ImageNetResNet50, build
from baselines.towers import TINY_RESNET, ImageSpec
from benchmark.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from benchmark.errors import BadInput, MissingWeights, UnsupportedModality
from benchmark.model import BuildRequest
from benchmark.weights import listing, resolve

THIN = ImageSpec("resnet50.a1_in1k", 64, TINY_RESNET)
PIXELS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The folder of the published file, laid out as timm does it, classifier and all, but thin."""
    monkeypatch.setitem(SPECS, "paper", THIN)
    folder = tmp_path / TIMM_RESNET50.repo_id
    folder.mkdir(parents=True)
    save_file(published().state_dict(), folder / "model.safetensors")
    return {TIMM_RESNET50.repo_id: folder}


def published() -> torch.nn.Module:
    """What timm itself builds: classifier included, statistics that are not those of a new network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        whole = timm.create_model(THIN.arch, pretrained=False, **THIN.options)
        for module in whole.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1.5)
    return whole.eval()


def load(folders: dict[str, Path]) -> ImageNetResNet50:
    return build(BuildRequest(scale="paper", weights="pretrained", files=folders))


def test_the_published_file_loads_whole_and_gives_timms_own_features(folders: dict[str, Path]) -> None:
    model = load(folders)
    tensors = len(published().state_dict()) - 2
    assert model.loaded == {"image tower": f"{tensors}/{tensors}"}
    with torch.inference_mode():
        expected = published().forward_head(published().forward_features(PIXELS), pre_logits=True)
        torch.testing.assert_close(model.encode_image(PIXELS).pooled, expected)
        whole = published()(PIXELS)
        torch.testing.assert_close(published().get_classifier()(model.encode_image(PIXELS).pooled), whole)
    assert not model.training


@pytest.mark.parametrize("damage", ["missing", "without a place", "of another shape"])
def test_a_file_that_fits_in_part_is_refused(folders: dict[str, Path], damage: str) -> None:
    file = folders[TIMM_RESNET50.repo_id] / "model.safetensors"
    state = load_file(file)
    if damage == "missing":
        del state["layer4.0.bn3.running_var"]
    elif damage == "without a place":
        state["layer4.9.conv1.weight"] = torch.zeros(1)
    else:
        state["conv1.weight"] = torch.zeros(1)
    save_file(state, file)
    with pytest.raises(BadInput, match=f"does not fit the image tower: .*1 {damage}"):
        load(folders)


def test_pictures_are_prepared_as_for_imagenet() -> None:
    settings = build(BuildRequest(scale="paper")).preprocess.record()
    assert (settings["size"], settings["mean"], settings["std"]) == (224, IMAGENET_MEAN, IMAGENET_STD)
    assert settings["interpolation"] == timm.get_pretrained_cfg("resnet50.a1_in1k").interpolation


def test_grey_and_colour_pictures_of_any_size_become_its_input() -> None:
    model = build(BuildRequest())
    pictures = [Image.new("L", (50, 30), 90), Image.new("RGB", (20, 70), (90, 90, 90))]
    batch = torch.stack([model.preprocess(each) for each in pictures])
    assert batch.shape == (2, 3, 64, 64)
    with torch.inference_mode():
        features = model.encode_image(batch)
    assert features.pooled.shape == (2, model.image_dim)
    assert features.tokens.shape == (2, 4, model.image_dim)


def test_it_has_no_text_no_training_and_no_other_weights(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModality, match="has no text tower"):
        build(BuildRequest()).encode_text(["a report"])
    with pytest.raises(BadInput, match="scale 'paper' only"):
        build(BuildRequest(weights="pretrained"))
    with pytest.raises(BadInput, match="its published weights and no others"):
        build(BuildRequest(weights=tmp_path / "saved.safetensors"))
    assert IMAGENET_RESNET50.regimes == ("frozen",)
    assert IMAGENET_RESNET50.naive


def test_its_file_is_looked_for_where_lumbarclips_is(folders: dict[str, Path], tmp_path: Path) -> None:
    """One download serves both; without it the sentence does not propose weights that it cannot have."""
    card = IMAGENET_RESNET50.card
    assert resolve(card, "pretrained", tmp_path, seed=0).files == folders
    (row,) = listing([card], tmp_path)
    assert (row["present"], row["pinned"], row["tower"]) == (True, True, "image tower")
    (folders[TIMM_RESNET50.repo_id] / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"weights fetch imagenet-resnet50', or leave it out$"):
        resolve(card, "pretrained", tmp_path, seed=0)
