"""One module a system: the same work, each in its own words. Run in a process of its own by ``benchmarks``."""
