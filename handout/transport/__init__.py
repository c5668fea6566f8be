"""Hosts as this side reaches them: how an agent is started there, and the conversation with it."""
