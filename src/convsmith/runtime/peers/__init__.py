"""Other libraries that convolve on the CPU, measured beside ours; none is ever needed.

One file each. They are loaded when they are asked for, and what is not installed is left out.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from convsmith.runtime.peers.mnn_peer import Mnn
from convsmith.runtime.peers.ncnn_peer import Ncnn
from convsmith.runtime.peers.onnxruntime_peer import OnnxRuntime
from convsmith.runtime.peers.openvino_peer import OpenVino
from convsmith.runtime.peers.protocol import Array, Peer, PeerConvolution
from convsmith.runtime.peers.torch_peer import Torch

__all__ = ["PEERS", "Array", "Peer", "PeerConvolution", "installed", "peer_version"]

_ALL: tuple[Peer, ...] = (
    Torch(name="torch", last=False),
    Torch(name="torch channels_last", last=True),
    Torch(name="torch prepared", last=True, prepared=True),
    OnnxRuntime(),
    OpenVino(),
    Ncnn(),
    Mnn(),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
"""Every peer, by name."""


def installed(peer: Peer) -> bool:
    """Returns whether a peer is there; it is not loaded.

    >>> installed(Torch(name="a", last=False, module="no_such_module"))
    False
    """
    return find_spec(peer.module) is not None


def peer_version(peer: Peer) -> str:
    """Returns the version of an installed peer."""
    try:
        return version(peer.package)
    except PackageNotFoundError:
        return "unknown"
