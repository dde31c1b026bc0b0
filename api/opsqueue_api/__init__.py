"""The HTTP API: `opsqueue-api`."""
