"""Values of queues, submissions and chunks, and what is checked about them; no I/O."""
