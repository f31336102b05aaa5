"""The simulated fleet: generated traffic, the demo, and the simulation of outages."""
