"""Manages the hosts of a cluster: starts their agents, follows their capabilities, and handles their loss."""
