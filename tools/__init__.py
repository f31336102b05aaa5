"""Development tools, and programs for laptops only: local stack, console, simulated fleet."""
