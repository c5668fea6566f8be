"""Measure the speed of Handout, and of similar systems on the same work: ``python -m benchmarks``."""
