"""Hours of failures in minutes, over a real sshd on loopback: ``python -m benchmarks.soak kills | blackouts``."""
