"""The worker process: it runs the functions of users, one task at a time or many coroutines at once."""
