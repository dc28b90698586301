"""Linear decision functions with an L2 penalty: logistic regression, linear SVM and ridge.

Each minimises  C * sum of losses + |w|^2 / 2  with a free (unpenalised) intercept, as scikit-learn does. Two classes
have one decision value, more have one each: softmax for logistic regression, one against the rest for SVM and ridge.

Logistic regression and SVM use L-BFGS with every coordinate divided by the square root of a bound on its curvature
(Bohning 1992: a logistic loss bends by at most 1/4, a squared hinge by 2). In the principal axes of a draw that
makes the problem round, so some ten to forty steps reach the solution at any C, where the plain solver needs hundreds
or stops early. Two classes and few coordinates, as in most draws, take Newton's steps instead: five to eight of them,
each a small linear system.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]

NEWTON = 2_000_000  # n r^2, the work of a step: at 80 x 64 it takes a fifth of L-BFGS's time, at 800 x 64 the same
HALVINGS = 30  # of one Newton step; more only where rounding is all that is left
GRADIENT = 1e-5  # largest gradient at the solution, in the rescaled coordinates; decision values are then good to ~1e-4
STEPS = 2000

Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]  # decisions (n, H) -> sum of losses and its gradient (n, H)


def logistic(z: np.ndarray, y: np.ndarray, *, n_classes: int, C: float) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression (two classes) or softmax regression (more).

    Args:
        z: (n, r) float64; y: (n,) integers below n_classes; C: weight of the losses against the penalty.

    Returns:
        Weights (r, H) and intercepts (H,), H = 1 for two classes (positive: class 1), else n_classes.
    """
    if n_classes == 2 and max(z.shape) * z.shape[1] ** 2 <= NEWTON:
        found = _newton(z, _signs(y, 2)[:, 0], C)
        if found is not None:
            return found
    return _minimise(
        _binary(y) if n_classes == 2 else _softmax(y, n_classes), z, _columns(n_classes), C, curvature=0.25
    )


def svm(z: np.ndarray, y: np.ndarray, *, n_classes: int, C: float) -> tuple[np.ndarray, np.ndarray]:
    """Linear SVM with the squared hinge loss, one class against the rest; arguments and result as `logistic`."""
    sign = _signs(y, n_classes)

    def loss(decisions: np.ndarray) -> tuple[float, np.ndarray]:
        slack = np.maximum(0, 1 - sign * decisions)
        return float((slack**2).sum()), -2 * sign * slack

    return _minimise(loss, z, _columns(n_classes), C, curvature=2)


def ridge(z: np.ndarray, y: np.ndarray, *, n_classes: int, C: float) -> tuple[np.ndarray, np.ndarray]:
    """Least squares on targets of -1 and 1, in closed form; arguments and result as `logistic` (alpha = 1 / 2C)."""
    return least_squares(z, _signs(y, n_classes), alpha=1 / (2 * C))


def least_squares(z: np.ndarray, targets: np.ndarray, *, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Minimise  sum of squared errors + alpha |w|^2  with a free intercept, in closed form.

    Args:
        z: (n, r) float64; targets: (n, H) float64; alpha: above 0.

    Returns:
        Weights (r, H) and intercepts (H,).
    """
    mean, target = z.mean(axis=0), targets.mean(axis=0)
    centred = z - mean
    if len(z) < z.shape[1]:  # the smaller of the two equivalent systems
        kernel = centred @ centred.T + np.eye(len(z)) * alpha
        weight = centred.T @ np.linalg.solve(kernel, targets - target)
    else:
        moment = centred.T @ centred + np.eye(z.shape[1]) * alpha
        weight = np.linalg.solve(moment, centred.T @ (targets - target))
    return weight, target - mean @ weight


def softmax(decisions: np.ndarray) -> np.ndarray:
    """Decision values (m, H) -> (m, C) that sum to one; a single column becomes (1 - p, p), p its sigmoid."""
    values = decisions.astype(np.float64)
    if values.shape[1] == 1:
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    values = np.exp(values - values.max(axis=1, keepdims=True))
    shares: np.ndarray = values / values.sum(axis=1, keepdims=True)
    return shares


def _columns(n_classes: int) -> int:
    return 1 if n_classes == 2 else n_classes


def _signs(y: np.ndarray, n_classes: int) -> np.ndarray:
    """(n, H): 1 where the row is of the column's class (class 1 for two classes), else -1."""
    member = (y == 1)[:, None] if n_classes == 2 else y[:, None] == np.arange(n_classes)
    return np.where(member, 1.0, -1.0)


def _binary(y: np.ndarray) -> Loss:
    sign = _signs(y, 2)

    def loss(decisions: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * decisions
        return float(np.logaddexp(0, -margin).sum()), -sign * np.exp(-np.logaddexp(0, margin))

    return loss


def _softmax(y: np.ndarray, n_classes: int) -> Loss:
    truth = (y[:, None] == np.arange(n_classes)).astype(np.float64)

    def loss(decisions: np.ndarray) -> tuple[float, np.ndarray]:
        shifted = decisions - decisions.max(axis=1, keepdims=True)
        exponents = np.exp(shifted)
        totals = exponents.sum(axis=1, keepdims=True)
        return float((np.log(totals[:, 0]) - (shifted * truth).sum(axis=1)).sum()), exponents / totals - truth

    return loss


def _newton(z: np.ndarray, sign: np.ndarray, C: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Logistic regression of two classes by Newton's method: weights (r, 1) and intercept (1,); None where it fails.

    `sign` (n,) is 1 for class 1, else -1. A step that does not lower the objective is halved until it does.
    """
    n, r = z.shape
    design = np.concatenate([z, np.ones((n, 1))], axis=1)
    penalty = np.ones(r + 1)
    penalty[r] = 0
    scale = 1 / np.sqrt(penalty + C * 0.25 * (design**2).sum(axis=0))  # as in `_minimise`
    weights = np.zeros(r + 1)
    margin = np.zeros(n)

    def objective(weights: np.ndarray, margin: np.ndarray) -> float:
        return float(C * np.logaddexp(0, -margin).sum() + 0.5 * (penalty * weights) @ weights)

    value = objective(weights, margin)
    for _ in range(STEPS):
        wrong = expit(-margin)  # the chance that is given to the other class
        gradient = penalty * weights - C * ((sign * wrong) @ design)
        if np.abs(gradient * scale).max() <= GRADIENT:
            return weights[:r, None], weights[r:]
        root = np.sqrt(C * wrong * (1 - wrong))[:, None] * design
        bend = root.T @ root
        bend.flat[:: r + 2] += penalty
        try:
            step = np.linalg.solve(bend, gradient)
        except np.linalg.LinAlgError:
            return None
        for _ in range(HALVINGS):
            margin = sign * (design @ (weights - step))
            lower = objective(weights - step, margin)
            if lower <= value:
                break
            step /= 2
        else:
            return None
        weights, value = weights - step, lower
    return None


def _minimise(loss: Loss, z: np.ndarray, columns: int, C: float, *, curvature: float) -> tuple[np.ndarray, np.ndarray]:
    n, r = z.shape
    scale = np.empty((r + 1, 1))
    scale[:r, 0] = 1 / np.sqrt(1 + C * curvature * (z**2).sum(axis=0))
    scale[r] = 1 / np.sqrt(C * curvature * n)  # the intercept has no penalty

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(r + 1, columns) * scale
        value, slope = loss(z @ weights[:r] + weights[r])
        gradient = np.empty_like(weights)
        gradient[:r] = C * (z.T @ slope) + weights[:r]
        gradient[r] = C * slope.sum(axis=0)
        return C * value + 0.5 * float((weights[:r] ** 2).sum()), (gradient * scale).ravel()

    found = minimize(
        objective,
        np.zeros((r + 1) * columns),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": STEPS, "maxfun": 2 * STEPS, "gtol": GRADIENT, "ftol": 0.0, "maxcor": 20},
    )
    weights = found.x.reshape(r + 1, columns) * scale
    return weights[:r], weights[r]
