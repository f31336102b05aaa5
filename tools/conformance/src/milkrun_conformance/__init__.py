"""A test kit for apps that post events to Milkrun. Its server accepts events, or fails in the ways in which Milkrun or
a proxy can fail, and the kit reports whether the app follows the rule for clients (the kit's README.md, "The rule").
"""
