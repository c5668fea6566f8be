"""The agent process: it talks to the controller, queues tasks, and keeps the objects of its host."""
