"""Development tools, and what only a laptop has: the local stack, the console and the simulated fleet."""
