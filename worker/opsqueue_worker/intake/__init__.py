"""The worker's connection to its queues: reserving, reporting and heartbeats."""
