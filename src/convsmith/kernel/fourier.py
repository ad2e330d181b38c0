"""Fourier transforms as straight-line code: butterflies whose coefficients are known.

A transform is drawn as a network of sums and products with constants, once per size, by the
split-radix recursion with conjugate pairs (Kamar & Elcherif 1989) and, for what remains, by
decimation with a small odd radix. Real input, symmetric spectra and inputs that are zero are not
special cases: the network knows which values are zero, equal or opposite, and what no output needs
is not written. A product that is only added becomes a fused multiply-add.

The spectrum of n real numbers (n even) is packed as n numbers: X[0], X[n/2], which are real, and
then the real and imaginary parts of X[1] to X[n/2 - 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from convsmith.kernel.emit import Code, Value
from convsmith.kernel.kinds import lanes_of

__all__ = [
    "Ends",
    "Network",
    "Places",
    "complex_dft",
    "complex_inverse",
    "correlation_bound",
    "correlation_error",
    "real_dft",
    "real_inverse",
    "roundoff",
]

_UNIT_ROUNDOFF: Final = 2.0**-24

_Operation = Literal["input", "add", "subtract", "scale", "fma"]


@dataclass(frozen=True, slots=True)
class _Node:
    """One operation: add a + b, subtract a - b, scale factor * a, fma factor * a + sign * b."""

    operation: _Operation
    a: int = 0
    b: int = 0
    factor: float = 1.0
    sign: int = 1


class _Drawing:
    """A network while it is drawn: nodes in order, each of them once."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self._known: dict[_Node, int] = {}

    def real(self, node: _Node, sign: int = 1) -> _Real:
        if node not in self._known:
            self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return _Real(self, self._known[node], sign)


@dataclass(frozen=True, slots=True)
class _Real:
    """A real number of a network: a node, its opposite (sign -1) or zero (sign 0)."""

    drawing: _Drawing
    index: int
    sign: int

    @property
    def node(self) -> _Node:
        return self.drawing.nodes[self.index]

    def __neg__(self) -> _Real:
        return _Real(self.drawing, self.index, -self.sign)

    def __add__(self, other: _Real) -> _Real:
        if not self.sign:
            return other
        if not other.sign:
            return self
        if self.index == other.index:
            return self.times(2.0) if self.sign == other.sign else _zero(self.drawing)
        if self.node.operation == "scale":
            return self._fused(other)
        if other.node.operation == "scale":
            return other._fused(self)
        if self.sign == other.sign:
            a, b = sorted((self.index, other.index))
            return self.drawing.real(_Node("add", a, b), self.sign)
        plus, minus = (self, other) if self.sign > 0 else (other, self)
        return self.drawing.real(_Node("subtract", plus.index, minus.index))

    def _fused(self, other: _Real) -> _Real:
        factor = self.sign * self.node.factor
        return self.drawing.real(_Node("fma", self.node.a, other.index, factor, other.sign))

    def __sub__(self, other: _Real) -> _Real:
        return self + -other

    def times(self, factor: float) -> _Real:
        if factor == 0 or not self.sign:
            return _zero(self.drawing)
        if abs(factor) == 1:
            return self if factor > 0 else -self
        sign = self.sign if factor > 0 else -self.sign
        if self.node.operation == "scale":
            factor, inner = abs(factor) * self.node.factor, self.node.a
        else:
            factor, inner = abs(factor), self.index
        return self.drawing.real(_Node("scale", inner, factor=factor), sign)

    def positive(self) -> _Real:
        """The same number as a node's own value, for an output."""
        if self.sign >= 0:
            return self
        node = self.node
        match node.operation:
            case "subtract":
                return self.drawing.real(_Node("subtract", node.b, node.a))
            case "fma":
                return self.drawing.real(_Node("fma", node.a, node.b, -node.factor, -node.sign))
            case "scale":
                return self.drawing.real(_Node("scale", node.a, factor=-node.factor))
        return self.drawing.real(_Node("scale", self.index, factor=-1.0))


def _zero(drawing: _Drawing) -> _Real:
    return _Real(drawing, 0, 0)


@dataclass(frozen=True, slots=True)
class _Complex:
    re: _Real
    im: _Real

    def __add__(self, other: _Complex) -> _Complex:
        return _Complex(self.re + other.re, self.im + other.im)

    def __sub__(self, other: _Complex) -> _Complex:
        return _Complex(self.re - other.re, self.im - other.im)

    def times(self, factor: float) -> _Complex:
        return _Complex(self.re.times(factor), self.im.times(factor))

    def times_i(self) -> _Complex:
        return _Complex(-self.im, self.re)

    def conjugate(self) -> _Complex:
        return _Complex(self.re, -self.im)

    def swapped(self) -> _Complex:
        return _Complex(self.im, self.re)

    def turned(self, k: int, n: int) -> _Complex:
        """Times exp(-2 pi i k / n); quarter turns are free, eighths cost two products."""
        k %= n
        if 4 * k >= n:
            return _Complex(self.im, -self.re).turned(k - n // 4, n) if n % 4 == 0 else (
                self._turned_by(k, n)
            )  # fmt: skip
        if 8 * k == n:
            half = math.sqrt(0.5)
            return _Complex((self.re + self.im).times(half), (self.im - self.re).times(half))
        return self._turned_by(k, n)

    def _turned_by(self, k: int, n: int) -> _Complex:
        if k == 0:
            return self
        c, s = math.cos(2 * math.pi * k / n), math.sin(2 * math.pi * k / n)
        return _Complex(self.re.times(c) + self.im.times(s), self.im.times(c) - self.re.times(s))


# The transforms ---------------------------------------------------------------------------


def _dft(x: Sequence[_Complex]) -> list[_Complex]:
    """X[k] = sum of x[j] exp(-2 pi i j k / n); of real x, half is computed, half conjugated."""
    n = len(x)
    if n == 1:
        return list(x)
    real = all(not value.im.sign for value in x)
    made: dict[int, _Complex] = {}

    def put(k: int, value: _Complex) -> None:
        made.setdefault(k, value)
        if real:
            made.setdefault(-k % n, value.conjugate())

    if n % 4:
        radix = next(r for r in range(2, n + 1) if n % r == 0)
        parts = [_dft(x[q::radix]) for q in range(radix)]
        step = n // radix
        for k in range(step // 2 + 1 if real else step):
            turned = [part[k].turned(q * k, n) for q, part in enumerate(parts)]
            for p, value in enumerate(_small(turned)):
                put(k + p * step, value)
    else:
        quarter = n // 4
        even, first = _dft(x[0::2]), _dft(x[1::4])
        last = _dft([x[4 * j - 1] for j in range(quarter)])
        for k in range(quarter // 2 + 1 if real else quarter):
            one, other = first[k].turned(k, n), last[k].turned(-k, n)
            total, turn = one + other, (one - other).times_i()
            put(k, even[k] + total)
            put(k + 2 * quarter, even[k] - total)
            put(k + quarter, even[k + quarter] - turn)
            put(k + 3 * quarter, even[k + quarter] + turn)
    return [made[k] for k in range(n)]


def _inverse(spectrum: Sequence[_Complex]) -> list[_Real]:
    """x[j] = sum of X[k] exp(2 pi i j k / n), of a conjugate-symmetric X: decimation of X."""
    n = len(spectrum)
    if n == 1:
        return [spectrum[0].re]
    made: dict[int, _Real] = {}

    def part(first: int, step: int, half: list[_Complex]) -> None:
        """Transforms the spectrum of x[first], x[first + step], ... given by its first half."""
        length = n // step
        full = half + [half[length - k].conjugate() for k in range(len(half), length)]
        for j, value in enumerate(_inverse(full)):
            made[(first + j * step) % n] = value

    if n % 4:
        radix = next(r for r in range(2, n + 1) if n % r == 0)
        step = n // radix
        parts: list[list[_Complex]] = [[] for _ in range(radix)]
        for k in range(step // 2 + 1):
            values = [spectrum[k + p * step].swapped() for p in range(radix)]
            for q, value in enumerate(_small(values)):
                parts[q].append(value.swapped().turned(-q * k, n))
        for q, half in enumerate(parts):
            part(q, radix, half)
    else:
        quarter = n // 4
        part(0, 2, [spectrum[k] + spectrum[k + 2 * quarter] for k in range(quarter + 1)])
        first, last = [], []
        for k in range(quarter // 2 + 1):
            a = spectrum[k] - spectrum[k + 2 * quarter]
            b = (spectrum[k + quarter] - spectrum[(k + 3 * quarter) % n]).times_i()
            first.append((a + b).turned(-k, n))
            last.append((a - b).turned(k, n))
        part(1, 4, first)
        part(-1, 4, last)
    return [made[j] for j in range(n)]


def _small(x: Sequence[_Complex]) -> list[_Complex]:
    """The definition for a prime length, pairs j and n - j taken together."""
    n = len(x)
    if n == 2:
        return [x[0] + x[1], x[0] - x[1]]
    sums = [x[j] + x[n - j] for j in range(1, n // 2 + 1)]
    differences = [(x[j] - x[n - j]).times_i() for j in range(1, n // 2 + 1)]
    total = x[0]
    for value in sums:
        total = total + value
    made = {0: total}
    for k in range(1, n // 2 + 1):
        even, odd = x[0], None
        for j, (plus, minus) in enumerate(zip(sums, differences, strict=True), 1):
            even = even + plus.times(math.cos(2 * math.pi * j * k / n))
            term = minus.times(math.sin(2 * math.pi * j * k / n))
            odd = term if odd is None else odd + term
        assert odd is not None
        made[k], made[n - k] = even - odd, even + odd
    return [made[k] for k in range(n)]


# Errors -----------------------------------------------------------------------------------


def roundoff(n: int) -> float:
    """Returns a bound of a float32 transform's error: its 2-norm over that of the result.

    A factor 2 of n is a stage of Higham 2002, theorem 24.2: mu + gamma_4 (sqrt 2 + mu). A stage of
    odd radix r is a product with a unitary matrix that has absolute values 1 / sqrt r: sqrt r
    gamma_(r + 4), complex arithmetic included.

    >>> round(roundoff(16) / _UNIT_ROUNDOFF, 1)
    26.6
    """
    error, left = 0.0, n
    for radix in (2, *range(3, n + 1, 2)):
        while left % radix == 0:
            left //= radix
            error += (
                _UNIT_ROUNDOFF + _gamma(4) * (math.sqrt(2) + _UNIT_ROUNDOFF)
                if radix == 2
                else math.sqrt(2 * radix) * _gamma(radix + 4)
            )
    return error / (1 - error)


def correlation_bound(sizes: Sequence[int], terms: int) -> float:
    """Returns a bound of a correlation through transforms: an error over sum |w| times max |x|.

    With N numbers in a tile, Parseval's equation and the Cauchy-Schwarz inequality bound what an
    error of the spectra makes of an output by that error times ||w|| ||x|| (2-norms), and what the
    inverse adds by its roundoff times ||w||_1 ||x||; ||x|| is at most sqrt N max |x|. The products
    add up ``terms`` complex numbers, weights rounded once.

    Args:
        sizes: Lengths of the transforms, per axis.
        terms: Complex products of one sum.
    """
    transforms = sum(roundoff(n) for n in sizes)
    sums = math.sqrt(2) * _gamma(2 * terms + 2) + 3 * _UNIT_ROUNDOFF
    return math.sqrt(math.prod(sizes)) * ((1 + transforms) ** 2 * (1 + sums) - 1)


def correlation_error(numbers: int, terms: int, products: int) -> float:
    """Returns the expected rms error of a correlation through transforms, over that of its sums.

    A chain of n fused multiply-adds of independent terms has an rms error of sqrt(n / 12) units of
    roundoff of its result (a rounding has a mean square of 1/6 of the unit's, partial sums half of
    the result's); a complex product is two steps of a chain. What transforms add was measured: 0.6
    times the square of the unit per factor of 2.

    Args:
        numbers: In a tile.
        terms: Complex products of one sum.
        products: Terms of the definition.
    """
    own = 0.6 * math.log2(numbers) + terms / 6
    return math.sqrt(own / (products / 12))


def _gamma(n: int) -> float:
    return n * _UNIT_ROUNDOFF / (1 - n * _UNIT_ROUNDOFF)


# Networks ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Network:
    """A linear map as sums and products with constants, ready to be written.

    Attributes:
        mults: Products of a number with a constant.
        adds: Sums and differences.
    """

    _nodes: tuple[_Node, ...]
    _outputs: tuple[int | None, ...]  # None: zero
    _live: tuple[int, ...]
    mults: int
    adds: int

    @staticmethod
    def _of(drawing: _Drawing, outputs: Sequence[_Real]) -> Network:
        made = [value.positive() for value in outputs]
        needed = {value.index for value in made if value.sign}
        for index in range(len(drawing.nodes) - 1, -1, -1):
            node = drawing.nodes[index]
            if index in needed and node.operation != "input":
                needed |= {node.a} | ({node.b} if node.operation != "scale" else set())
        live = sorted(needed)
        kinds = [drawing.nodes[index].operation for index in live]
        fused = kinds.count("fma")
        return Network(
            tuple(drawing.nodes),
            tuple(value.index if value.sign else None for value in made),
            tuple(live),
            kinds.count("scale") + fused,
            kinds.count("add") + kinds.count("subtract") + fused,
        )

    def emit(
        self, code: Code, load: Callable[[int], Value], store: Callable[[int, Value], None]
    ) -> None:
        """Writes the network.

        Args:
            code: Where to write.
            load: Returns an input by its index; called once for each that is needed.
            store: Takes an output by its index as soon as it is there.
        """
        made: dict[int, Value] = {}
        wanted: dict[int, list[int]] = {}
        zeros: list[int] = []
        for place, output in enumerate(self._outputs):
            (zeros if output is None else wanted.setdefault(output, [])).append(place)
        lanes = 1
        for index in self._live:
            node = self._nodes[index]
            match node.operation:
                case "input":
                    value = load(node.a)
                    lanes = lanes_of(value.kind)
                case "add":
                    value = made[node.a] + made[node.b]
                case "subtract":
                    value = made[node.a] - made[node.b]
                case "scale":
                    value = made[node.a] * node.factor
                case "fma":
                    other = made[node.b] if node.sign > 0 else -made[node.b]
                    value = code.fma(code.splat(node.factor, lanes), made[node.a], other)
            made[index] = value
            for place in wanted.get(index, ()):
                store(place, value)
        for place in zeros:
            store(place, code.splat(0.0, lanes))


@dataclass(frozen=True, slots=True)
class Places:
    """Vectors in memory by the index of a network's input or output.

    Attributes:
        base: Where number 0 lies.
        lanes: Vector width.
        pitch: Elements from one real number to the next, or from one complex number to the next.
        part: Elements from a real part to its imaginary part; 0 if the numbers are real.
    """

    base: Value
    lanes: int
    pitch: int
    part: int = 0

    def _offset(self, index: int) -> int:
        if not self.part:
            return index * self.pitch
        return index // 2 * self.pitch + index % 2 * self.part

    def load(self, index: int) -> Value:
        """Reads one number."""
        return self.base.load(self.lanes, self._offset(index))

    def store(self, index: int, value: Value) -> None:
        """Writes one number."""
        self.base.store(value, self._offset(index))


@dataclass(frozen=True, slots=True)
class Ends:
    """A packed spectrum whose two real numbers lie apart from the complex ones.

    Attributes:
        real: X[0] and X[n / 2], as one pair.
        others: X[1] to X[n / 2 - 1].
    """

    real: Places
    others: Places

    def load(self, index: int) -> Value:
        """Reads one number."""
        return self.real.load(index) if index < 2 else self.others.load(index - 2)

    def store(self, index: int, value: Value) -> None:
        """Writes one number."""
        if index < 2:
            self.real.store(index, value)
        else:
            self.others.store(index - 2, value)


_SIZES: Final = 128  # networks kept


@lru_cache(maxsize=_SIZES)
def real_dft(n: int, inputs: int | None = None) -> Network:
    """Returns the transform of n real numbers (n even, or 1), of which the first may be not zero.

    Args:
        n: Length.
        inputs: How many numbers are given; the others are zero. By default all.

    Returns:
        A network of ``inputs`` inputs and n outputs, the packed spectrum.

    >>> real_dft(4).mults, real_dft(4).adds
    (0, 6)
    """
    drawing = _Drawing()
    zero = _zero(drawing)
    given = n if inputs is None else min(inputs, n)
    x = [_Complex(drawing.real(_Node("input", j)) if j < given else zero, zero) for j in range(n)]
    spectrum = _dft(x)
    if n == 1:
        return Network._of(drawing, [spectrum[0].re])
    packed = [spectrum[0].re, spectrum[n // 2].re]
    for value in spectrum[1 : n // 2]:
        packed += [value.re, value.im]
    return Network._of(drawing, packed)


@lru_cache(maxsize=_SIZES)
def real_inverse(n: int, outputs: int | None = None) -> Network:
    """Returns the inverse of :func:`real_dft`, times n; the first ``outputs`` numbers of it."""
    drawing = _Drawing()
    zero = _zero(drawing)
    packed = [drawing.real(_Node("input", j)) for j in range(n)]
    half = [_Complex(packed[0], zero)]
    half += [_Complex(packed[2 * k], packed[2 * k + 1]) for k in range(1, n // 2)]
    if n > 1:
        half.append(_Complex(packed[1], zero))
    full = half + [half[n - k].conjugate() for k in range(len(half), n)]
    return Network._of(drawing, _inverse(full)[:outputs])


@lru_cache(maxsize=_SIZES)
def complex_dft(n: int, inputs: int | None = None) -> Network:
    """Returns the transform of n complex numbers, real and imaginary parts in turn.

    >>> complex_dft(4).mults, complex_dft(4).adds
    (0, 16)
    """
    return _complex(n, n if inputs is None else min(inputs, n), n, inverse=False)


@lru_cache(maxsize=_SIZES)
def complex_inverse(n: int, outputs: int | None = None) -> Network:
    """Returns the inverse of :func:`complex_dft`, times n; the first ``outputs`` numbers of it."""
    return _complex(n, n, n if outputs is None else outputs, inverse=True)


def _complex(n: int, inputs: int, outputs: int, *, inverse: bool) -> Network:
    drawing = _Drawing()
    zero = _Complex(_zero(drawing), _zero(drawing))
    x = [
        _Complex(drawing.real(_Node("input", 2 * j)), drawing.real(_Node("input", 2 * j + 1)))
        if j < inputs
        else zero
        for j in range(n)
    ]
    if inverse:  # exchanging the parts before and after conjugates the transform
        x = [value.swapped() for value in x]
    made = _dft(x)[:outputs]
    if inverse:
        made = [value.swapped() for value in made]
    return Network._of(drawing, [part for value in made for part in (value.re, value.im)])
