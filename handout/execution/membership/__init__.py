"""The hosts of a cluster: starting their agents, following their capabilities, and coping with their loss."""
