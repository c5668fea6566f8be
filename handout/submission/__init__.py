"""Serialization policy, the user's code as bundles of source, and the objects that the controller holds."""
