"""Test whether an app follows the rule for clients, with a server that fails in the same ways as Milkrun."""
