"""The code that runs on hosts. The controller sends it there, together with ``protocol`` and ``serialization``.

This code imports only these two packages and the standard library, and runs on Python 3.9 or newer. In the process of
the controller, only the modules `handout_stub` and `task_context` are imported from here.
"""
