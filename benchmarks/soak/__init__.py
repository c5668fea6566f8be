"""The soaks: programs that cause many failures within minutes, in runs over a real sshd on loopback.

Run them with ``python -m benchmarks.soak kills`` and ``python -m benchmarks.soak blackouts``.
"""
