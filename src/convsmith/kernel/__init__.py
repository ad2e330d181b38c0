"""Code generation: what convsmith computes with.

A kernel is Python that writes LLVM code (:mod:`~convsmith.kernel.emit`), from parts that every
algorithm uses (:mod:`~convsmith.kernel.tile`, :mod:`~convsmith.kernel.moving`,
:mod:`~convsmith.kernel.transforms`), for one machine (:mod:`~convsmith.kernel.target`). It is
compiled when it is first needed (:mod:`~convsmith.kernel.machine`), kept on disk
(:mod:`~convsmith.kernel.store`) and run on threads that wait inside compiled code
(:mod:`~convsmith.kernel.threads`).
"""
