"""Kernels in the frequency domain: filters shown as what they are."""

from __future__ import annotations

from convsmith.signal.character import Character, Kind, character, separability
from convsmith.signal.response import folded_share, frequencies, response
from convsmith.signal.spectrum import KernelSpectrum, LayerSpectrum, Spectrum, spectrum

__all__ = [
    "Character",
    "KernelSpectrum",
    "Kind",
    "LayerSpectrum",
    "Spectrum",
    "character",
    "folded_share",
    "frequencies",
    "response",
    "separability",
    "spectrum",
]
