"""The simulated fleet: generated traffic and the demo."""
