"""Contents of chunks: how operations and results become objects of a store, and are read again."""
