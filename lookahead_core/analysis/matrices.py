"""Small matrices whose entries are numbers or arrays: products, radius, steady-state covariance.

A matrix is a tuple of rows. Entries meet by operators alone, so one with array entries is a batch
of matrices, in any array namespace. What the matrices mean is cycle.py.
"""

from typing import Any, TypeAlias

__all__ = [
    "Matrix",
    "add",
    "congruent",
    "power",
    "product",
    "spectral_radius",
    "steady_state_covariance",
]

Matrix: TypeAlias = tuple[tuple[Any, ...], ...]

# 2**-52 of the logarithm of a norm is below rounding, also where the norm grows like n * radius**n.
SQUARINGS = 52


def product(left: Matrix, right: Matrix) -> Matrix:
    """left @ right."""
    columns = tuple(zip(*right, strict=True))
    return tuple(
        tuple(sum(a * b for a, b in zip(row, column, strict=True)) for column in columns)
        for row in left
    )


def add(left: Matrix, right: Matrix) -> Matrix:
    """left + right."""
    rows = zip(left, right, strict=True)
    return tuple(tuple(a + b for a, b in zip(*pair, strict=True)) for pair in rows)


def congruent(matrix: Matrix, covariance: Matrix) -> Matrix:
    """Covariance of matrix @ z, where `covariance` is that of z."""
    return product(product(matrix, covariance), tuple(zip(*matrix, strict=True)))


def power(matrix: Matrix, exponent: int) -> Matrix:
    """`matrix` to the `exponent`, an int >= 1, by squaring."""
    if exponent == 1:
        return matrix
    half = power(matrix, exponent // 2)
    square = product(half, half)
    return product(square, matrix) if exponent % 2 else square


def spectral_radius(matrix: Matrix) -> Any:
    """Largest absolute eigenvalue.

    Of two rows by the roots of the characteristic polynomial; of more as lim |M^n|^(1/n), with n
    doubled by squaring: the array-API standard has no eigenvalues of matrices that are not
    symmetric.
    """
    return _radius_of_two(matrix) if len(matrix) == 2 else _radius_by_squaring(matrix)


def _radius_of_two(matrix: Matrix) -> Any:
    (a, b), (c, d) = matrix
    half_trace = abs(a + d) / 2
    discriminant = ((a - d) / 2) ** 2 + b * c
    # Real roots: half_trace + sqrt(discriminant). Complex ones: sqrt(half_trace^2 - discriminant).
    # One of the two parts is zero, so one line is both, without `where`.
    real = (abs(discriminant) + discriminant) / 2
    imaginary = (abs(discriminant) - discriminant) / 2
    return ((half_trace + real**0.5) ** 2 + imaginary) ** 0.5


def _radius_by_squaring(matrix: Matrix) -> Any:
    radius = 1.0
    for squared in range(SQUARINGS):
        # The tiny number leaves a nilpotent matrix at radius 0 instead of 0 / 0.
        norm = sum(abs(entry) for row in matrix for entry in row) + 1e-300
        radius = radius * norm ** (0.5**squared)
        scaled = tuple(tuple(entry / norm for entry in row) for row in matrix)
        matrix = product(scaled, scaled)
    return radius


def steady_state_covariance(matrix: Matrix, noise: Matrix) -> Matrix:
    """Solve S = M S M' + N, the covariance that z' = M z + n, Cov n = N, settles at.

    S is the sum of M^j N M'^j; each round doubles how many terms are in. Needs radius(M) < 1.
    """
    covariance = noise
    for _ in range(SQUARINGS):
        covariance = add(covariance, congruent(matrix, covariance))
        matrix = product(matrix, matrix)
    return covariance
