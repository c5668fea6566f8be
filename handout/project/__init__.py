"""The user's own modules: which modules these are, their files, and their sources as the program loaded them."""
