"""The live console: one stage on a web page of this machine. It only reads the stage's stores, so it can be
killed at any time.
"""
