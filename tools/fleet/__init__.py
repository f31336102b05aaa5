"""The simulated fleet: its trucks, the demo, and the outage simulation."""
