"""The core's state. Only these modules write the columns of runs and host records."""
