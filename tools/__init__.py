"""Development tools and everything that exists only on a laptop: the local stack, the console, the simulated
fleet.
"""
