"""Where handlers run: child processes, threads, an event loop, or the main thread."""
