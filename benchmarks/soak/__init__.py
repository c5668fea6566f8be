"""Soak tests: many failures within minutes, over a real sshd on loopback.

Run them with ``python -m benchmarks.soak kills`` and ``python -m benchmarks.soak blackouts``.
"""
