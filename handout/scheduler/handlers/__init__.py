"""The functions that handle the events of the core, and the steps that several of these functions share."""
