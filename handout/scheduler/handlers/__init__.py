"""What the core does about each family of events."""
