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


# --------------------------------------------------------------------------------------------- class weights


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("d", [12, 110], ids=["more samples", "more features"])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_balanced_weights_reach_the_optimum_of_scikit_learn(n_classes, d, strength):
    """One class is nine in ten of the samples; coefficients and probabilities agree to 1e-6 as without weights."""
    x, y = blobs(140, d, n_classes, seed=5)
    y = np.where(np.arange(140) % 10 > 1, 0, y)
    train_x, val_x, train_y, val_y = x[:100], x[100:], y[:100], y[100:]
    task = "binary" if n_classes == 2 else "multiclass"
    options = {"n_classes": n_classes, "task": task, "strengths": (strength,)}
    ours = fit_standard(train_x, train_y, val_x, val_y, **options, class_weight="balanced")
    train_z, val_z = standardised(train_x, val_x)
    reference = LogisticRegression(
        C=strength, solver="newton-cholesky", tol=1e-10, max_iter=1000, class_weight="balanced"
    ).fit(train_z, train_y)
    columns = slice(1, None) if n_classes == 2 else slice(None)
    assert np.abs(ours.coefficients[:, columns].T - reference.coef_).max() < 1e-6
    assert np.abs(ours.scores(val_x) - reference.predict_proba(val_z)).max() < 1e-6
    assert ours.record["converged"]
    plain = fit_standard(train_x, train_y, val_x, val_y, **options)
    assert ours.scores(val_x)[:, 0].mean() < plain.scores(val_x)[:, 0].mean() - 1e-3


def test_balanced_weights_of_several_labels_are_each_labels_own():
    """A rare, an even and a common label: each column is scikit-learn's balanced regression of that label alone."""
    x, _ = blobs(160, 9, 2)
    noise = np.random.default_rng(1).normal(size=(160, 3))
    y = (x[:, :3] - x[:, :3].mean(0) + noise > [1.8, 0.0, -1.8]).astype(np.int64)
    assert y[:120].mean(axis=0)[0] < 0.25 < 0.75 < y[:120].mean(axis=0)[2]
    options = {"n_classes": 3, "task": "multilabel", "strengths": (0.3,), "class_weight": "balanced"}
    ours = fit_standard(x[:120], y[:120], x[120:], y[120:], **options)
    train_z, val_z = standardised(x[:120], x[120:])
    losses = []
    for label in range(3):
        reference = LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-12, class_weight="balanced")
        p = reference.fit(train_z, y[:120, label]).predict_proba(val_z)[:, 1]
        assert np.abs(ours.scores(x[120:])[:, label] - p).max() < 1e-6
        share = y[:120, label].mean()
        weights = np.where(y[120:, label] == 1, 0.5 / share, 0.5 / (1 - share))
        losses.append((weights, -np.log(np.where(y[120:, label] == 1, p, 1 - p))))
    weights, logs = np.array(losses).swapaxes(0, 1)
    assert ours.record["val_log_loss"] == pytest.approx([np.average(logs, weights=weights)], abs=1e-5)


def test_balanced_weights_choose_the_strength_by_the_weighted_loss():
    """Where features say little and one class is rare, the balanced probe is judged under equal frequencies too."""
    x, y = blobs(200, 8, 2, seed=3)
    y = np.where(np.arange(200) % 6 > 1, 0, y)
    parts = (x[:120], y[:120], x[120:], y[120:])
    options = {"n_classes": 2, "task": "binary", "strengths": GRID, "class_weight": "balanced"}
    fitted = fit_standard(*parts, **options)
    shares = np.bincount(y[:120]) / 120
    train_z, val_z = standardised(x[:120], x[120:])
    losses = []
    for c in GRID:
        reference = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, class_weight="balanced")
        p = reference.fit(train_z, y[:120]).predict_proba(val_z)
        losses.append(np.average(-np.log(p[np.arange(80), y[120:]]), weights=1 / shares[y[120:]]))
    assert fitted.record["val_log_loss"] == pytest.approx(losses, abs=1e-5)
    assert fitted.record["strength"] == GRID[int(np.argmin(losses))]


def test_a_class_that_training_lacks_has_no_weight_to_upset():
    """Balanced: the classes that are there count alike, and validation samples of the missing one stay finite."""
    x, y = blobs(90, 6, 3, seed=2)
    y = np.where(y == 1, 3, y)
    val_y = y[60:].copy()
    val_y[:3] = 1
    options = {"n_classes": 4, "task": "multiclass", "strengths": GRID, "class_weight": "balanced"}
    fitted = fit_standard(x[:60], y[:60], x[60:], val_y, **options)
    present = fit_standard(x[:60], y[:60], x[60:], y[60:], **options | {"strengths": (fitted.record["strength"],)})
    assert np.isfinite(fitted.record["val_log_loss"]).all()
    assert np.abs(fitted.scores(x) - present.scores(x)).max() < 1e-6


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


def papers_losses(kind, labels, z):
    """Per-sample losses of (n, C) logits in double precision, one sample and one class at a time."""
    several = labels.ndim == 2
    n, n_classes = z.shape
    losses = []
    for i in range(n):
        problems = (
            # What each softmax is over: the classes' logits, their counts, the right one.
            [((0.0, z[i, c]), (n - labels[:, c].sum(), labels[:, c].sum()), labels[i, c]) for c in range(n_classes)]
            if several
            else [(z[i], np.bincount(labels, minlength=n_classes), labels[i])]
        )
        for logits, counts, right in problems:
            priors = counts if kind == "balanced_softmax" else np.ones(len(counts))
            terms = [m * np.exp(v) for m, v in zip(priors, logits, strict=True)]
            p = terms[right] / sum(terms)
            weight = 1.0
            if kind == "focal":
                weight = (1 - p) ** 2
            if kind == "class_balanced":
                raw = [(1 - 0.999) / (1 - 0.999**m) for m in counts]
                weight = raw[right] * sum(counts) / sum(m * w for m, w in zip(counts, raw, strict=True))
            losses.append(-weight * np.log(p))
    return losses


def adamw(loss, start, *, lr, steps):
    """AdamW with torch's defaults on a gradient by central differences."""
    x, m, v = start.copy(), np.zeros(start.size), np.zeros(start.size)
    for t in range(1, steps + 1):
        shifts = 1e-6 * np.eye(x.size)
        gradient = np.array([(loss(x + s) - loss(x - s)) / 2e-6 for s in shifts])
        x = x * (1 - lr * 0.01)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        x -= lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


@pytest.mark.parametrize("kind", ["cross_entropy", "class_balanced", "focal", "balanced_softmax"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_paper_probe_minimises_each_loss_as_a_loop_in_double_precision_does(kind, task):
    """Three full-batch steps on unbalanced labels, the loss written out sample by sample."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(30, 3)).astype(np.float32)
    n_classes = 2 if task == "binary" else 3
    y = np.minimum(np.arange(30) // 12, n_classes - 1)
    if task == "multilabel":
        y = (rng.random((30, 3)) < [0.2, 0.5, 0.8]).astype(np.int64)
    options = {"n_classes": n_classes, "task": task, "lr": 0.05, "batch": 30, "generator_seed": 1, "loss": kind}
    start = fit_paper(x, y, epochs=0, **options)
    ours = fit_paper(x, y, epochs=3, **options)
    pack = np.vstack([start.coefficients, start.intercepts])

    def mean_loss(flat):
        weights = flat.reshape(pack.shape)
        return np.mean(papers_losses(kind, y, x.astype(np.float64) @ weights[:-1] + weights[-1]))

    reference = adamw(mean_loss, pack.ravel(), lr=0.05, steps=3).reshape(pack.shape)
    assert np.abs(np.vstack([ours.coefficients, ours.intercepts]) - reference).max() < 1e-5
    assert np.abs(reference - pack).max() > 0.1


def test_balanced_softmax_shifts_logits_in_training_alone():
    """Nine in ten samples of a class, features that say nothing: plain scores come out even, cross-entropy's do not."""
    x, y = np.zeros((100, 2), dtype=np.float32), np.array([0] * 90 + [1] * 10)
    options = {"n_classes": 2, "task": "binary", "epochs": 200, "lr": 0.05, "batch": 100, "generator_seed": 0}
    assert fit_paper(x, y, **options, loss="balanced_softmax").scores(x)[0, 1] == pytest.approx(0.5, abs=0.01)
    assert fit_paper(x, y, **options).scores(x)[0, 1] == pytest.approx(0.1, abs=0.01)
    assert fit_paper(x, y, **options, upsample=True).scores(x)[0, 1] == pytest.approx(0.5, abs=0.01)


def test_upsampling_trains_on_the_rare_class_repeated():
    """Nine equal samples of one class and three of another: as training on nine of each, repeatably."""
    x = np.repeat([[1.0, 0.0], [0.0, 1.0]], [9, 3], axis=0).astype(np.float32)
    y = np.repeat([0, 1], [9, 3])
    options = {"n_classes": 2, "task": "binary", "epochs": 5, "lr": 0.05, "batch": 18}
    ours = fit_paper(x, y, **options, generator_seed=4, upsample=True)
    even = fit_paper(x[[0] * 9 + [9] * 9], np.repeat([0, 1], 9), **options, generator_seed=4)
    assert np.abs(ours.coefficients - even.coefficients).max() < 1e-6
    again = fit_paper(x, y, **options, generator_seed=4, upsample=True)
    assert np.array_equal(ours.coefficients, again.coefficients)


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
