"""The live console: a web page that is served from this machine and shows one stage. The console only reads the
stage's stores, and creates nothing but its own queue and the queue's subscriptions, so it can be killed at any time.
"""
