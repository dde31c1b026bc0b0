"""The worker: reserves chunks, runs handlers in child processes, reports.

The path of a chunk, a module a step: intake (reserves) -> pool (hands to a child) -> child (fetch,
run, save) -> pool -> intake (reports, in the round trip that reserves the next). Beside it:
heartbeat (alive, what is void) and sweeper (takes back from the dead, cleans up).
"""
