"""Turns a plan into bytes: the functions, the arguments, and the user's own modules as a bundle of sources."""
