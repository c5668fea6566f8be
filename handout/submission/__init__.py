"""Turns a plan into bytes: its functions, its arguments, and the user's own modules as a bundle of sources."""
