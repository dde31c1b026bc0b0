"""Contents of chunks: storing operations and results as objects of a store, and reading them."""
