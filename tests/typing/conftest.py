"""Keeps pytest from collecting the programs. The tests in this folder check and run them."""

collect_ignore = ["programs"]
