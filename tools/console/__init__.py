"""The live console: one stage on a web page of this machine. It reads what the stage's stores say and is never in
the way of an event: it can be killed at any time."""
