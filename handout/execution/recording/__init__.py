"""A run and its journal: what is recorded, and what is resumed from."""
