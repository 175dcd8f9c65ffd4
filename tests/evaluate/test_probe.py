"""The linear probes reach the optima that scikit-learn reaches, and few-shot subsets are what they claim to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from benchmark.evaluate.probe import FittedProbe, Scaler, fit_few_shot, fit_paper, fit_standard, nested_subsets

GRID = tuple(np.logspace(-4, 2, 7))


def blobs(n, d, n_classes, *, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=n - n_classes)])
    mixing = rng.normal(size=(d, d)) * np.logspace(0, -2, d)
    x = (rng.normal(size=(n, d)) + rng.normal(size=(n_classes, d))[y] * 0.7) @ mixing
    return (x * scale + 3.0).astype(np.float32), y


def standardised(train, *others):
    exact = train.astype(np.float64)
    return [(part.astype(np.float64) - exact.mean(0)) / exact.std(0) for part in (train, *others)]


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("d", [12, 80], ids=["more samples", "more features"])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_standard_probe_is_the_optimum_of_scikit_learn(n_classes, d, strength):
    """Coefficients, intercepts and probabilities agree to 1e-6, on either side of d = n."""
    x, y = blobs(80, d, n_classes)
    train_x, val_x, train_y, val_y = x[:60], x[60:], y[:60], y[60:]
    task = "binary" if n_classes == 2 else "multiclass"
    ours = fit_standard(train_x, train_y, val_x, val_y, n_classes=n_classes, task=task, strengths=(strength,))
    train_z, val_z = standardised(train_x, val_x)
    reference = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(train_z, train_y)

    columns = slice(1, None) if n_classes == 2 else slice(None)
    assert np.abs(ours.coefficients[:, columns].T - reference.coef_).max() < 1e-6
    ours_centred = ours.intercepts if n_classes == 2 else ours.intercepts - ours.intercepts.mean()
    theirs_centred = reference.intercept_ if n_classes == 2 else reference.intercept_ - reference.intercept_.mean()
    assert np.abs(ours_centred[columns] - theirs_centred).max() < 1e-6
    assert np.abs(ours.scores(val_x) - reference.predict_proba(val_z)).max() < 1e-6
    assert ours.record["converged"]
    assert ours.record["gradient_norm"] < 1e-6


def test_standard_probe_of_several_labels_is_one_regression_per_label():
    """Multilabel scores are those of independent scikit-learn regressions."""
    x, _ = blobs(120, 15, 2)
    y = (x[:, :3] + np.random.default_rng(1).normal(size=(120, 3)) > x[:, :3].mean(0)).astype(np.int64)
    ours = fit_standard(x[:90], y[:90], x[90:], y[90:], n_classes=3, task="multilabel", strengths=(0.3,))
    train_z, val_z = standardised(x[:90], x[90:])
    for label in range(3):
        reference = LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-12).fit(train_z, y[:90, label])
        assert np.abs(ours.scores(x[90:])[:, label] - reference.predict_proba(val_z)[:, 1]).max() < 1e-6


def test_strength_is_the_one_with_the_lowest_validation_log_loss():
    """The recorded losses are those of separate fits, and the choice and its edge flag follow from them."""
    x, y = blobs(140, 10, 3, seed=4)
    parts = (x[:90], y[:90], x[90:], y[90:])
    fitted = fit_standard(*parts, n_classes=3, task="multiclass", strengths=GRID)
    alone = [
        fit_standard(*parts, n_classes=3, task="multiclass", strengths=(c,)).record["val_log_loss"][0] for c in GRID
    ]
    assert fitted.record["val_log_loss"] == pytest.approx(alone, abs=1e-5)
    best = int(np.argmin(alone))
    assert fitted.record["strength"] == GRID[best]
    assert not fitted.record["at_edge"]
    edge = fit_standard(*parts, n_classes=3, task="multiclass", strengths=GRID[best:])
    assert edge.record["strength"] == GRID[best]
    assert edge.record["at_edge"]


def test_features_that_do_not_vary_change_nothing():
    """A constant column is scaled to 0, whatever its value, and no value is divided by zero."""
    x, y = blobs(60, 5, 2)
    constant = np.full((60, 1), 0.1, dtype=np.float32)
    plain = fit_standard(x[:40], y[:40], x[40:], y[40:], n_classes=2, task="binary", strengths=GRID)
    wide = np.hstack([x, constant])
    padded = fit_standard(wide[:40], y[:40], wide[40:], y[40:], n_classes=2, task="binary", strengths=GRID)
    assert np.abs(plain.scores(x) - padded.scores(wide)).max() < 1e-8


def test_features_that_say_nothing_give_the_prior_at_the_strongest_regularisation():
    """All-constant features give every sample the class frequencies of the training split."""
    x, y = np.zeros((50, 3), dtype=np.float32), np.array([0] * 35 + [1] * 15)
    fitted = fit_standard(x[::2], y[::2], x[1::2], y[1::2], n_classes=2, task="binary", strengths=GRID)
    assert fitted.scores(x)[:, 1] == pytest.approx(y[::2].mean(), abs=1e-8)
    assert fitted.record["strength"] == GRID[0]


def test_a_class_that_training_lacks_gets_probability_zero():
    """The other classes are fitted as if it did not exist, and the record names it."""
    x, y = blobs(90, 6, 3, seed=2)
    y = np.where(y == 1, 3, y)  # classes 0, 2 and 3 of four
    fitted = fit_standard(x[:60], y[:60], x[60:], y[60:], n_classes=4, task="multiclass", strengths=GRID)
    scores = fitted.scores(x)
    assert (scores[:, 1] == 0).all()
    assert scores.sum(axis=1) == pytest.approx(1.0)
    assert fitted.record["not_in_train"] == [1]
    as_two = fit_standard(
        x[:60], (y[:60] > 0) * 1, x[60:], (y[60:] > 0) * 1, n_classes=4, task="multiclass", strengths=GRID
    )
    assert (as_two.scores(x)[:, 2:] == 0).all()


def test_a_label_that_never_varies_keeps_its_value():
    """Multilabel: an all-zero and an all-one training label get probabilities 0 and 1."""
    x, y = blobs(60, 4, 2)
    labels = np.stack([y, np.zeros(60, dtype=np.int64), np.ones(60, dtype=np.int64)], axis=1)
    fitted = fit_standard(x[:40], labels[:40], x[40:], labels[40:], n_classes=3, task="multilabel", strengths=GRID)
    assert (fitted.scores(x)[:, 1:] == [0.0, 1.0]).all()


# --------------------------------------------------------------------------------------------- paper


def paper(x, y, *, task="binary", n_classes=2, epochs=30, lr=1e-2, seed=3) -> FittedProbe:
    return fit_paper(x, y, n_classes=n_classes, task=task, epochs=epochs, lr=lr, batch=16, generator_seed=seed)


def test_paper_probe_repeats_to_the_last_bit_and_depends_on_its_seed():
    """Same seed, same weights; global random state is neither read nor moved."""
    import torch

    x, y = blobs(100, 8, 2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = paper(x, y)
    torch.rand(5)
    second = paper(x, y)
    torch.manual_seed(1)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first.coefficients, second.coefficients)
    assert not np.array_equal(first.coefficients, paper(x, y, seed=4).coefficients)


def test_paper_probe_is_a_torch_linear_layer_under_adamw():
    """One full-batch epoch from the same weights gives what a module in a plain loop gives."""
    import torch

    x, y = blobs(40, 5, 3)
    start = fit_paper(x, y, n_classes=3, task="multiclass", epochs=0, lr=0.1, batch=40, generator_seed=0)
    layer = torch.nn.Linear(5, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start.coefficients.T))
        layer.bias.copy_(torch.from_numpy(start.intercepts))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    torch.nn.CrossEntropyLoss()(layer(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    optimizer.step()
    ours = fit_paper(x, y, n_classes=3, task="multiclass", epochs=1, lr=0.1, batch=40, generator_seed=0)
    assert np.abs(ours.coefficients - layer.weight.detach().numpy().T).max() < 1e-6


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_paper_probe_learns(task):
    """It separates what can be separated, one class or several labels per sample."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    x = (rng.normal(size=(200, 4)) * 0.3 + np.outer(2 * y - 1, [1, 0, 0, 0])).astype(np.float32)
    labels = y if task == "binary" else np.stack([y, 1 - y], axis=1)
    scores = paper(x, labels, task=task).scores(x)
    assert ((scores[:, 1] > 0.5) == ((y == 1) if task == "binary" else (y == 0))).mean() > 0.95


# --------------------------------------------------------------------------------------------- few-shot


def test_ridge_equals_scikit_learn_at_the_chosen_strength():
    """Coefficients and scores are Ridge(alpha = 1 / C)'s, for fewer and for more features than shots."""
    for d in (4, 60):
        x, y = blobs(24, d, 3, seed=d)
        scaler = Scaler.fit(x)
        ours = fit_few_shot(x, y, n_classes=3, strengths=GRID, scaler=scaler)
        alpha = 1 / ours.record["strength"]
        reference = Ridge(alpha=alpha, solver="svd").fit(scaler.apply(x), np.eye(3)[y])
        assert np.abs(ours.coefficients - reference.coef_.T).max() < 1e-8
        assert np.abs(ours.scores(x) - reference.predict(scaler.apply(x))).max() < 1e-8


def test_ridge_strength_is_the_best_by_explicit_leave_one_out():
    """Refitting without each shot in turn chooses the same strength as the closed form."""
    for seed in range(4):
        x, y = blobs(20, 12, 2, seed=seed)
        scaler = Scaler.fit(x)
        z, targets = scaler.apply(x), np.eye(2)[y]
        errors = []
        for strength in GRID:
            residuals = []
            for i in range(20):
                rest = np.arange(20) != i
                model = Ridge(alpha=1 / strength, solver="svd").fit(z[rest], targets[rest])
                residuals.append(targets[i] - model.predict(z[i : i + 1])[0])
            errors.append(np.mean(np.square(residuals)))
        ours = fit_few_shot(x, y, n_classes=2, strengths=GRID, scaler=scaler)
        assert ours.record["strength"] == GRID[int(np.argmin(errors))]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 4), multilabel=st.booleans())
def test_few_shot_subsets_are_nested_balanced_and_repeatable(seed, n_classes, multilabel):
    """Every smaller subset lies in the larger ones and holds k of each class; the key alone decides."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=(60, n_classes)) if multilabel else rng.integers(n_classes, size=60)
    groups = rng.integers(20, size=60)
    options = {"n_classes": n_classes, "shots": (1, 2, 4, 50), "draws": 3}
    draws = nested_subsets(y, groups, **options, rng_key=("abc", seed))
    again = nested_subsets(y, groups, **options, rng_key=("abc", seed))
    for subsets, repeated in zip(draws, again, strict=True):
        assert set(subsets) == {1, 2, 4}
        for small, large in ((1, 2), (2, 4)):
            assert set(subsets[small]) < set(subsets[large])
        for k, rows in subsets.items():
            assert np.array_equal(rows, repeated[k])
            if multilabel:
                assert (y[rows].sum(axis=0) >= k).all()
                assert ((1 - y[rows]).sum(axis=0) >= k).all()
            else:
                assert (np.bincount(y[rows], minlength=n_classes) == k).all()
    assert any(not np.array_equal(draws[0][4], draw[4]) for draw in draws[1:])


def test_shots_come_from_as_many_patients_as_there_are():
    """Six pictures per patient: four shots of a class are of four patients; eight of five patients use all five."""
    groups = np.repeat(np.arange(10), 6)
    y = (groups >= 5).astype(np.int64)
    for subsets in nested_subsets(y, groups, n_classes=2, shots=(4, 8), draws=5, rng_key=("x",)):
        for label in (0, 1):
            of_class = subsets[4][y[subsets[4]] == label]
            assert len(set(groups[of_class])) == 4
            counts = np.bincount(groups[subsets[8][y[subsets[8]] == label]] % 5, minlength=5)
            assert sorted(counts) == [1, 1, 2, 2, 2]
