"""`Whitening`: PCA whitening of vectors, of texts and of what else another model has read."""

from typing import NamedTuple

import numpy as np


class Whitening(NamedTuple):
    """Whitens by PCA: `apply(x) = (x - mean) @ matrix`; a row of zeros (no text) stays zero.

    The last `features` columns, in and out, are no text: they are scaled alone, see `beside`.
    """

    mean: np.ndarray  # (dim_in,) float32
    matrix: np.ndarray  # (dim_in, dim_out) float32
    features: int = 0

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Gives the whitened rows: float32 `(num_rows, dim_out)`."""
        vectors = np.asarray(vectors, np.float32)
        whitened = ((vectors - self.mean) @ self.matrix).astype(np.float32)
        # else all texts of which nothing is known would be like each other
        of_text = np.arange(self.matrix.shape[1]) < self.matrix.shape[1] - self.features
        known = vectors[..., : vectors.shape[-1] - self.features].any(axis=-1, keepdims=True)
        return np.where(known | ~of_text, whitened, np.float32(0))

    def beside(self, features: int, scale: float) -> "Whitening":
        """Gives a whitening that takes `features` more columns, and multiplies them by `scale`."""
        (rows, columns), many = self.matrix.shape, features
        matrix = np.zeros((rows + many, columns + many), np.float32)
        matrix[:rows, :columns] = self.matrix
        matrix[rows:, columns:] = np.eye(many, dtype=np.float32) * scale
        mean = np.concatenate([self.mean, np.zeros(many, np.float32)])
        return Whitening(mean, matrix, self.features + many)


def fit_whitening(
    vectors: np.ndarray, dim: int | None = None, *, shrinkage: float = 1e-3
) -> Whitening:
    """Learns a PCA whitening: centred, uncorrelated components of unit variance, largest first.

    Raw BERT vectors lie in a narrow cone (random pairs have a cosine above 0.8); whitened ones
    spread.

    Args:
        vectors: float, `(num_rows, dim_in)`, at least 2 rows.
        dim: components kept; default all `dim_in`.
        shrinkage: share of the mean variance mixed into each variance, in 0..1, so that components
            with (nearly) no variance are not blown up. Their variance comes out below 1.

    Returns:
        `Whitening`.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(1000, 2)) @ np.array([[3.0, 1.0], [0.0, 0.5]]) + 7
    >>> white = fit_whitening(x, shrinkage=0.0).apply(x)
    >>> np.abs(np.cov(white.T) - np.eye(2)).max() < 1e-3
    np.True_
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(
            f"vectors must be a matrix of at least 2 rows. Received shape: {vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        raise ValueError(
            f"vectors must be finite. {int((~np.isfinite(vectors)).any(axis=1).sum())} rows hold"
            " NaN or infinity; remove or repair them."
        )
    dim = vectors.shape[1] if dim is None else dim
    if not 1 <= dim <= vectors.shape[1]:
        raise ValueError(
            f"dim must be between 1 and the width of the vectors ({vectors.shape[1]}). Received:"
            f" {dim}."
        )
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage must be between 0 and 1. Received: {shrinkage}.")
    mean = vectors.mean(axis=0)
    values, directions = np.linalg.eigh(np.cov((vectors - mean).T).reshape(vectors.shape[1], -1))
    values = np.maximum(values[::-1], 0.0)  # largest first
    directions = directions[:, ::-1]
    largest = np.abs(directions).argmax(axis=0)  # the sign of an eigenvector is arbitrary: fix it
    directions = directions * np.sign(directions[largest, np.arange(len(largest))])
    variances = (1 - shrinkage) * values + shrinkage * values.mean()
    scale = np.where(variances > 1e-12 * max(values[0], 1e-300), variances, np.inf) ** -0.5
    matrix = directions[:, :dim] * scale[:dim]
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))
