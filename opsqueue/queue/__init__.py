"""Everything that uses Redis: the state machine of queues, connections, and upkeep."""
