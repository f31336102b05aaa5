"""Development tools, and programs that run only on a laptop: the local stack, the console, the simulated fleet."""
