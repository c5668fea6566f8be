"""The agent process of a host. It talks to the controller, queues tasks, starts them and keeps their objects."""
