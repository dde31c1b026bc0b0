"""All that speaks to Redis: the state machine of queues, connections, and what keeps them up."""
