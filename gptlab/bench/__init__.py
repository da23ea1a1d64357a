"""Benchmarks of training steps and sweeps, against the machine's own speed and other people's code."""
