"""A test kit for apps that post events to Milkrun. Its server fails in the ways in which Milkrun can fail,
and the kit reports whether the app follows the rule for clients (README.md, "The rule").
"""
