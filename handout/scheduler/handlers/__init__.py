"""The handlers of events: one module for each family of events."""
