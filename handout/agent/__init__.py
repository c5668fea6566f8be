"""What travels to a host: standard library only, Python 3.9 or newer, imports nothing of the rest."""
