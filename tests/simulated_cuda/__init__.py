"""Simulated GPUs, on which tests run all of hrpose: python -m simulated_cuda."""
