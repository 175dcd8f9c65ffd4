"""Made-up predictions of one evaluator, for tests of what is computed from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from benchmark.result import Task


def predictions(task: Task, classes: tuple[str, ...], *, n_val: int = 90, n_test: int = 120, seed: int = 0):
    """Validation and test rows of the standard probe: three samples a patient, scores that know something."""
    rng = np.random.default_rng(seed)
    n, count = n_val + n_test, len(classes)
    if task == "multilabel":
        labels = (rng.random((n, count)) < np.linspace(0.45, 0.5, count)).astype(np.int64)
        scores = expit(1.6 * labels - 0.8 + rng.normal(0, 1.2, (n, count)))
        truth = {f"label_{c}": labels[:, c] for c in range(count)}
    else:
        labels = rng.integers(count, size=n)
        scores = softmax(1.5 * np.eye(count)[labels] + rng.normal(0, 1, (n, count)), axis=1)
        truth = {"label": labels}
    return pd.DataFrame(
        {
            "sample": [f"s{i}" for i in range(n)],
            "group": np.arange(n) // 3,
            "evaluator": pd.Categorical(["probe_standard"] * n),
            "space": pd.Categorical(["pooled"] * n),
            "draw": 0,
            "split": pd.Categorical(["val"] * n_val + ["test"] * n_test),
            **truth,
            **{f"score_{c}": scores[:, c] for c in range(count)},
        }
    )
