"""The code of the agent: the process on a host that talks to the controller, starts tasks and keeps objects."""
