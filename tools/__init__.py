"""The command `milkrun`, development tools, and programs that run only on a developer's machine: the local stack, the
console, the simulated fleet and the outage simulation.
"""
