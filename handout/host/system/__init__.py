"""Access to the operating system for agent, supervisor and workers: processes, control groups, memory, clock."""
