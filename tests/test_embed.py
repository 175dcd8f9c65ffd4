"""The extraction pass: each distinct picture and text once per weights, checked, and independent of the batch."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.embed import Extractor, pick_device
from benchmark.errors import BadInput, BrokenModel
from benchmark.model import Features
from benchmark.store import ArrayStore

CPU = torch.device("cpu")


def pictures(n: int) -> tuple[list[NDArray[np.uint8]], list[str]]:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (20, 30), dtype=np.uint8) for _ in range(n)]
    return pixels, [f"hash-{i}" for i in range(n)]


def extractor(toy: ModuleType, folder: Path, weights: str = "w") -> Extractor:
    return Extractor(toy.Toy(0), weights, ArrayStore(folder), device=CPU, precision="fp32")


def test_equals_the_bare_model_whatever_the_batch_size(toy: ModuleType, tmp_path: Path) -> None:
    pixels, hashes = pictures(11)
    model = toy.Toy(0)
    from PIL import Image

    bare = torch.stack([model.preprocess(Image.fromarray(p)) for p in pixels])
    expected = model.encode_image(bare).pooled.detach().numpy()
    for batch in (1, 4, 11, 64):
        got = extractor(toy, tmp_path / str(batch)).images(pixels, hashes, batch=batch)
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_picture_or_text_that_was_encoded_is_not_encoded_again(toy: ModuleType, tmp_path: Path) -> None:
    pixels, hashes = pictures(6)
    first = extractor(toy, tmp_path)
    a = first.images([*pixels, pixels[0]], [*hashes, hashes[0]], batch=4)
    assert first.passes["image"] == toy.SEEN["image"] == 6
    np.testing.assert_array_equal(a[0], a[6])
    texts = ["disc bulge", "normal", "disc bulge"]
    b = first.texts(texts, batch=4)
    assert first.passes["text"] == 2
    np.testing.assert_array_equal(b[0], b[2])
    more_pixels, more_hashes = pictures(8)
    again = extractor(toy, tmp_path)
    again.images(more_pixels, more_hashes, batch=4)
    again.texts([*texts, "new words"], batch=4)
    assert again.passes == {"image": 2, "text": 1}


def test_other_weights_share_nothing(toy: ModuleType, tmp_path: Path) -> None:
    pixels, hashes = pictures(3)
    extractor(toy, tmp_path).images(pixels, hashes, batch=4)
    other = extractor(toy, tmp_path, weights="v")
    other.images(pixels, hashes, batch=4)
    assert other.passes["image"] == 3


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda pixels: Features(torch.zeros(len(pixels), 5)), r"shape \(3, 5\) where its card promises \(3, 24\)"),
        (lambda pixels: Features(torch.zeros(len(pixels), 24) / 0), "not finite for 3 of 3"),
    ],
)
def test_a_broken_promise_is_named_and_nothing_is_stored(
    toy: ModuleType, tmp_path: Path, broken: object, message: str
) -> None:
    pixels, hashes = pictures(3)
    here = extractor(toy, tmp_path)
    here.model.encode_image = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(BrokenModel, match=message):
        here.images(pixels, hashes, batch=4)
    assert not list(tmp_path.iterdir())


def test_encoding_happens_in_eval_mode_without_gradients_and_the_mode_is_put_back(
    toy: ModuleType, tmp_path: Path
) -> None:
    pixels, hashes = pictures(3)
    here = extractor(toy, tmp_path)
    model = here.model
    assert isinstance(model, torch.nn.Module)
    seen = []
    encode = model.encode_image

    def spy(batch: torch.Tensor) -> Features:
        seen.append((model.training, torch.is_inference_mode_enabled()))
        return encode(batch)

    model.encode_image = spy
    model.train()
    here.images(pixels, hashes, batch=4)
    assert seen == [(False, True)]
    assert model.training


def test_a_device_this_machine_lacks_is_refused() -> None:
    with pytest.raises(BadInput, match="unknown device 'quantum'"):
        pick_device("quantum")
