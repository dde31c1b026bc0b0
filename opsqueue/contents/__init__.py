"""What chunks hold: how operations and results become objects of a store, and are read again."""
