"""The kernels of whole networks that are no convolutions: maps, pools, sums, interpolation.

Written in the language of :mod:`convsmith.kernel.emit`, for exactly the sizes of one network.
"""

from __future__ import annotations

from convsmith.runtime.kernels.kernel import Kernel

__all__ = ["Kernel"]
