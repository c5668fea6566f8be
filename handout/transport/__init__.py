"""How the controller reaches a host: it starts an agent there, connects to it, and talks with it."""
