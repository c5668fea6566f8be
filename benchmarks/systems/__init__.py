"""One module for each system. All modules do the same work, and ``benchmarks`` runs each in its own process."""
