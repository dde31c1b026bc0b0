"""The HTTP client, and the JSON form of the values."""
