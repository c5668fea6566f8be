"""What the agent, the supervisor and the workers use of the operating system: processes, limits, memory, clock."""
