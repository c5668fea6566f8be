"""The core's state: the only files that write the columns of a run."""
