"""How fast Handout is, beside its neighbours on the same work: ``python -m benchmarks``."""
