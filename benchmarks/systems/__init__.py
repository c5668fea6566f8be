"""One module for each measured system. All do the same work, and ``benchmarks`` runs each module in its own process."""
