"""The state of the scheduler's core, which makes all decisions about the hosts and the runs of a cluster.

The state of a run is in columns. Most columns have one entry for each task, or for each object, of the run. Other
packages may read the columns of runs and the records of hosts, but change them only by calling methods of this package.
"""
