"""Development tools, and programs that run only on a developer's machine: the local stack, the console and
the simulated fleet.
"""
