"""Layers of a module with other weights, and without those that were folded into them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

from torch import nn

from convsmith.graph.fragment import ConvStep
from convsmith.sources.torch.surgery import _layers as plain_layers
from convsmith.sources.torch.twin import HOOK_TABLES, plain_attributes, unwrap

__all__ = ["merged_module", "why_not_merged"]

_PLAIN = {
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.FeatureAlphaDropout, nn.Identity),
}


def why_not_merged(module: nn.Module, path: str) -> str:
    """Returns why what stands at a path can neither get other weights nor go; empty if it can.

    Its type must be one of torch's own, since another may do more; it must stand at one place
    only, and nobody may watch it.

    >>> block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> why_not_merged(block, "0"), why_not_merged(block, "1")
    ('', '1 is a ReLU, which cannot be replaced (use the graph)')
    """
    root = unwrap(module)
    try:
        found = root.get_submodule(path)
    except AttributeError:
        found = root
    kind = type(found).__name__
    if found is root or next(found.children(), None) is not None:
        return f"the forward of {kind} computes it and would have to change (use the graph)"
    if type(found) not in _PLAIN:
        return f"{path} is a {kind}, which cannot be replaced (use the graph)"
    if any(getattr(found, table, None) for table in HOOK_TABLES):
        return f"{path} has hooks (use the graph)"
    places = 0
    for parent in root.modules():
        places += sum(child is found for child in parent._modules.values())
        places += sum(value is found for _, value in plain_attributes(parent))
    return f"{path} stands at several places (use the graph)" if places > 1 else ""


def merged_module(
    module: nn.Module, layers: Mapping[str, ConvStep], gone: Collection[str]
) -> nn.Module:
    """Returns a copy of a module, for inference, with other layers at some paths.

    Args:
        module: The module; left as it is.
        layers: What stands at a path from now on; it has the type, the device and the
            ``requires_grad`` of the layer that it replaces.
        gone: Paths at which ``nn.Identity`` stands from now on.

    >>> import numpy as np
    >>> from convsmith.graph.operators import Conv
    >>> one = {"kernel": (1,), "stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
    >>> step = ConvStep(op=Conv(channels=1, bias=False, **one), weight=np.ones((1, 2, 1)))
    >>> merged_module(nn.Sequential(nn.Conv1d(2, 3, 1), nn.Dropout()), {"0": step}, ["1"])
    Sequential(
      (0): Conv1d(2, 1, kernel_size=(1,), stride=(1,), bias=False)
      (1): Identity()
    )
    """
    result = copy.deepcopy(module)
    root = unwrap(result)
    for path, layer in layers.items():
        made = plain_layers(root.get_submodule(path), layer)  # type: ignore[arg-type]
        _put(root, path, made[0] if len(made) == 1 else nn.Sequential(*made))
    for path in gone:
        _put(root, path, nn.Identity())
    return result.eval()


def _put(root: nn.Module, path: str, child: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent)._modules[name] = child
