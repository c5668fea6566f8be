"""The hosts of a cluster: reached, joined, watched, lost, reached again."""
