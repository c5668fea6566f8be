"""All code that runs on hosts only. It travels there with ``protocol`` and ``serialization``.

It uses the standard library only, and runs on Python 3.9 or newer.
"""
