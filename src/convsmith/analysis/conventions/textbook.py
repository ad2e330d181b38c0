"""The textbook: a bias is one more term of its sum, so it counts as one more multiplication.

A convolution over ``f_w x f_h`` outputs has ``f_w f_h C_out (k_w k_h C_in + 1)`` multiplications
and ``f_w f_h C_out (k_w k_h C_in - 1 + 1)`` additions; MAdd is their sum. Linear layers are
convolutions over one position; nothing else counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from convsmith.analysis.conventions.call import Call, Part, Rules
from convsmith.analysis.conventions.products import CONVOLUTIONS, MATRICES, TRANSPOSED, biases

__all__ = ["RULES"]


def _madd(call: Call) -> Iterator[Part]:
    yield from biases(call)
    yield Part(reason="additions", amount=call.adds, measure="add")


RULES: Rules = dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED, *MATRICES), _madd)
