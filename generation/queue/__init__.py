"""What waits: who is first, how far away a start is, what may wait at all, and RQ's wake-ups."""
