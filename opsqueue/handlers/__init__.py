"""Users' functions: how they are registered and called, and what becomes of what they return."""
