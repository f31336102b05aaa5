"""The live console: a web page that is served from this machine and shows one stage. The console only reads the
stage's stores. It creates nothing but its own queue, and the SNS subscription and the EventBridge rule that feed the
queue. It can be killed at any time, because the next console reuses these.
"""
