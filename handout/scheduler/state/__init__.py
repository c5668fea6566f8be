"""The core's state. Only the modules of this package change the columns of runs and the records of hosts."""
