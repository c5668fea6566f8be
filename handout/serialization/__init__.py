"""Values, functions, classes, calls and exceptions as bytes and back, the same on both ends. Travels to hosts."""
