"""What runs on hosts: standard library only, Python 3.9 or newer. Travels with protocol and serialization."""
