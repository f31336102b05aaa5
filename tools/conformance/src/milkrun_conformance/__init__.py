"""Test whether an app follows the rule for clients, with a server that fails like Milkrun."""
