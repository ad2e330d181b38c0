"""Convolution: one problem, many algorithms, the fastest one for this shape on this machine.

:mod:`~convsmith.conv.spec` says the problem, :mod:`~convsmith.conv.choice` plans it,
:mod:`~convsmith.conv.plan` prepares weights and runs; one file of :mod:`~convsmith.conv.algorithms`
each computes it. :mod:`~convsmith.conv.calling` does all of it in one call.

    >>> import numpy as np
    >>> from convsmith.conv.choice import plan
    >>> from convsmith.conv.spec import ConvSpec
    >>> spec = ConvSpec(size=(6, 6), channels=2, filters=3, kernel=(3, 3), bias=False)
    >>> prepared = plan(spec).prepare(np.ones(spec.weight_shape))
    >>> prepared(np.ones(spec.input_shape, np.float32)).shape
    (1, 3, 4, 4)
"""
