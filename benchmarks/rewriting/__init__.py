"""The parts of ``benchmarks/rewrite.py``: the networks, the methods and how all are measured."""
