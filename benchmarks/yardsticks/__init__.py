"""Yardsticks that others made, for ``benchmarks/external.py``: LightBench, the tabular study, convergence tests."""
