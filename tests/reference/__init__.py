"""One slow implementation of everything, in loops as the papers have it.

Tests hold the fast code to it; `tools/benchmark.py --against reference` is measured against it.
"""
