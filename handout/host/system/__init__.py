"""Access to the operating system for all processes of a run: processes, control groups, memory and clocks."""
