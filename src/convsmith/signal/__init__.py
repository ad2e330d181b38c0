"""Kernels and images in the frequency domain: filters shown as what they are."""

from __future__ import annotations

from convsmith.signal.character import Character, Kind, character, separability
from convsmith.signal.filters import FILTERS, filter_kernel
from convsmith.signal.image import ImageSpectrum, PartSpectrum, image_spectrum
from convsmith.signal.response import folded_share, frequencies, response
from convsmith.signal.spectrum import KernelSpectrum, LayerSpectrum, Spectrum, spectrum

__all__ = [
    "FILTERS",
    "Character",
    "ImageSpectrum",
    "KernelSpectrum",
    "Kind",
    "LayerSpectrum",
    "PartSpectrum",
    "Spectrum",
    "character",
    "filter_kernel",
    "folded_share",
    "frequencies",
    "image_spectrum",
    "response",
    "separability",
    "spectrum",
]
