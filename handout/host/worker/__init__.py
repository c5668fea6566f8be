"""The worker process: it runs the user's functions, one task at a time or many coroutines at the same time."""
