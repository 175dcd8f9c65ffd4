"""Projection heads: shapes, seeds, and a head ``none`` that really has no parameters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import BadInput
from benchmark.heads import ProjectionPair
from benchmark.model import HeadSpec


@pytest.mark.parametrize(("text", "parameters"), [("none", 0), ("linear-16", 17 * 16), ("mlp-16", 0)])
def test_head_has_the_parameters_its_name_says(text: str, parameters: int) -> None:
    pair = ProjectionPair(32, 20, HeadSpec.parse(text))
    count = sum(p.numel() for p in pair.parameters())
    if text == "linear-16":
        assert count == (32 * 16 + 16) + (20 * 16 + 16)
    elif text == "mlp-16":
        assert count == (32 * 16 + 16) + (16 * 16 + 16) + (20 * 16 + 16) + (16 * 16 + 16)
    else:
        assert count == parameters


@pytest.mark.parametrize("text", ["none", "linear-16", "mlp-16"])
def test_both_sides_land_on_one_unit_sphere(text: str) -> None:
    pair = ProjectionPair(32, 20, HeadSpec.parse(text))
    image, text_side = pair.project_image(torch.randn(5, 32)), pair.project_text(torch.randn(5, 20))
    assert image.shape == text_side.shape == (5, 20 if text == "none" else 16)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(text_side.norm(dim=1), torch.ones(5))


def test_none_maps_the_wider_side_by_an_orthonormal_matrix_that_no_seed_changes() -> None:
    first, second = (ProjectionPair(32, 20, HeadSpec("none"), seed=seed) for seed in (0, 1))
    matrix = first.image.matrix
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(20), atol=1e-6, rtol=0)
    assert torch.equal(matrix, second.image.matrix)
    assert first.text.matrix is None


def test_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (ProjectionPair(8, 8, HeadSpec("linear", 4), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.image.weight, b.image.weight)
    assert not torch.equal(a.image.weight, c.image.weight)
    assert torch.equal(before, torch.get_rng_state())


@given(st.sampled_from(["linear", "mlp"]), st.integers(1, 99_999))
def test_specs_read_back_what_they_print(kind: str, width: int) -> None:
    assert str(HeadSpec.parse(f"{kind}-{width}")) == f"{kind}-{width}"


@pytest.mark.parametrize("text", ["", "linear", "linear-0", "linear-1e3", "conv-3", "mlp--4", "None"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="for example 'linear-256'"):
        HeadSpec.parse(text)
