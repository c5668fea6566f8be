"""From a plan to bytes: arguments, functions, and the user's code as bundles of source."""
