"""What the agent, the supervisor and the workers ask of the operating system."""
