"""L2-regularised logistic regression along a whole path of strengths, at the speed of a few matrix products.

The objective is scikit-learn's, C * (weighted sum of log-losses) + |w|^2 / 2 with a free intercept, in float64. Two
changes of variables make it cheap without moving its optimum:

* a rotation of feature space by the eigenvectors of the covariance, in the row space where there are more features
  than samples (the optimum is a combination of the samples, so nothing is lost);
* a diagonal scaling by the curvature C * q * eigenvalue + 1, q the mean of weight * p (1 - p) at the start, in which
  the Hessian is close to the identity: full-batch L-BFGS then needs about ten steps where it would need hundreds.

The chosen solution is polished by Newton steps to the precision of float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit, log_softmax

Floats = NDArray[np.float64]

Family = Literal["softmax", "sigmoid"]
"""``softmax``: one class per sample. ``sigmoid``: each column is a two-class problem of its own."""

CONVERGED = 1e-6
"""Largest gradient component, in units of min(1, C), of a solution that counts as converged. |w|^2 / 2 makes the
objective strongly convex with constant 1, so the weights are no further from the optimum than the gradient is long; the
intercept has no penalty and its curvature shrinks with C."""

PRECISE = 1e-9
"""Largest gradient component, in the same units, at which polishing ends."""


@dataclass(frozen=True)
class Solution:
    """Weights at one strength, in rotated coordinates."""

    weights: Floats
    """(r + 1, K): one row per direction, the intercept last."""
    gradient_norm: float
    """Largest absolute component of the gradient of the objective, in feature space."""
    steps: int
    """Evaluations of the objective."""


class Problem:
    """One data set, rotated once and solved at many strengths."""

    def __init__(self, features: Floats, targets: Floats, family: Family, sample_weights: Floats | None = None) -> None:
        """Rotate the features.

        Args:
            features: (n, d), centred and scaled.
            targets: (n, K) of 0/1; for ``softmax`` each row has a single 1.
            family: How columns share a sample.
            sample_weights: (n, 1) multiples in which the log-losses count, or (n, K) for ``sigmoid``; 1 where absent.
        """
        self.basis, rotated, self._eigenvalues = _rotate(features)
        self._design = np.column_stack([rotated, np.ones(len(features))])
        self._transposed = np.ascontiguousarray(self._design.T)
        self._targets = targets
        self._sample_weights = np.ones((len(features), 1)) if sample_weights is None else sample_weights
        self._family: Family = family

    def path(self, strengths: Sequence[float]) -> list[Solution]:
        """Solve at every C in turn, each from the solution before it."""
        weights = np.zeros((self._design.shape[1], self._targets.shape[1]))
        solutions = []
        for strength in strengths:
            solution = self._descend(weights, strength)
            weights = solution.weights
            solutions.append(solution)
        return solutions

    def polish(self, solution: Solution, strength: float) -> Solution:
        """Newton steps by conjugate gradients until the gradient is ``PRECISE`` or rounding keeps it from shrinking."""
        best = solution
        while best.gradient_norm > PRECISE * min(1.0, strength):
            refined = self._newton(best, strength)
            if refined.gradient_norm > best.gradient_norm / 2:
                break
            best = refined
        return best

    def _descend(self, start: Floats, strength: float) -> Solution:
        scale = self._scale(start, strength)

        def objective(scaled: Floats) -> tuple[float, Floats]:
            weights = scaled.reshape(start.shape) * scale
            loss, probabilities = self._loss(weights)
            value = strength * loss + (weights[:-1] ** 2).sum() / 2
            return value, (self._gradient(weights, probabilities, strength) * scale).ravel()

        found = minimize(
            objective,
            (start / scale).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 2000, "maxfun": 4000, "gtol": 1e-5, "ftol": 0.0, "maxcor": 20},
        )
        return self._solution(found.x.reshape(start.shape) * scale, strength, int(found.nfev))

    def _newton(self, solution: Solution, strength: float) -> Solution:
        weights = solution.weights
        scale = self._scale(weights, strength)
        probabilities = self._loss(weights)[1]

        def curve(direction: Floats) -> Floats:
            step = direction.reshape(weights.shape) * scale
            along = self._design @ step
            if self._family == "sigmoid":
                bent = probabilities * (1 - probabilities) * along
            else:
                bent = probabilities * (along - (probabilities * along).sum(axis=1, keepdims=True))
            product = strength * (self._transposed @ (self._sample_weights * bent))
            product[:-1] += step[:-1]
            flat: Floats = (product * scale).ravel()
            return flat

        size = weights.size
        downhill = -(self._gradient(weights, probabilities, strength) * scale).ravel()
        step, _ = cg(LinearOperator((size, size), matvec=curve, dtype=np.float64), downhill, rtol=1e-4, maxiter=500)
        return self._solution(weights + step.reshape(weights.shape) * scale, strength, solution.steps + 1)

    def _scale(self, weights: Floats, strength: float) -> Floats:
        """(r + 1, 1) one over the root of the curvature that each direction has on average."""
        probabilities = self._loss(weights)[1]
        bends = self._sample_weights * (probabilities * (1 - probabilities))
        curvature = strength * max(float(bends.mean()), 1e-8)
        curvatures = np.append(curvature * self._eigenvalues + 1, curvature * len(self._design))
        return np.asarray(1 / np.sqrt(curvatures)[:, None], dtype=np.float64)

    def _loss(self, weights: Floats) -> tuple[float, Floats]:
        """Weighted sum of log-losses, and (n, K) probabilities."""
        logits = self._design @ weights
        counted = self._sample_weights * self._targets
        if self._family == "sigmoid":
            sum_of_logs = (self._sample_weights * np.logaddexp(0, logits)).sum()
            return float(sum_of_logs - (logits * counted).sum()), expit(logits)
        logs = log_softmax(logits, axis=1)
        return -float((logs * counted).sum()), np.exp(logs)

    def _gradient(self, weights: Floats, probabilities: Floats, strength: float) -> Floats:
        missed = self._sample_weights * (probabilities - self._targets)
        gradient: Floats = strength * (self._transposed @ missed)
        gradient[:-1] += weights[:-1]
        return gradient

    def _solution(self, weights: Floats, strength: float, steps: int) -> Solution:
        gradient = self._gradient(weights, self._loss(weights)[1], strength)
        norm = max(np.abs(self.basis @ gradient[:-1]).max(initial=0.0), np.abs(gradient[-1]).max())
        return Solution(weights, float(norm), steps)


def _rotate(features: Floats) -> tuple[Floats, Floats, Floats]:
    """Orthonormal basis (d, r) of the row space, the features in it (n, r), and their r second moments."""
    basis = None
    if features.shape[1] > features.shape[0]:
        basis, triangle = np.linalg.qr(features.T)
        features = triangle.T
    moments, vectors = np.linalg.eigh(features.T @ features)
    return vectors if basis is None else basis @ vectors, features @ vectors, np.maximum(moments, 0.0)
