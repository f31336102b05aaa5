"""Does an app keep the client's rule? A server that fails as ours can, and a judgement of what apps do."""
