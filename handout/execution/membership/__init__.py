"""Manages the hosts of a cluster: starts agents, follows the capabilities of hosts, and starts lost agents again."""
