"""What both ends of a link agree on: frames, the session, the ledger's arithmetic, numbers. Travels to hosts."""
