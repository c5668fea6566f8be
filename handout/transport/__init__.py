"""Starts an agent on a host, connects the controller to the agent, and exchanges messages with it."""
