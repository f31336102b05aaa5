"""The live console: a web page that is served from this machine and shows one stage. The console only reads
the stage's stores, so it can be killed at any time.
"""
