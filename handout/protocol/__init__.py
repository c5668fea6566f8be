"""The code that both ends of a link share: frames, sessions, messages, ids and the ledger. It travels to hosts."""
