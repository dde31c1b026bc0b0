"""What a worker takes from queues and reports to them, and that it lives."""
