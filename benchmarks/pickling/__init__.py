"""Compare ways to pickle code by value, on a corpus of ordinary scripts: ``python -m benchmarks.pickling``."""
