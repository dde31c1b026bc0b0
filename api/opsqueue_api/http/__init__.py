"""Concerns of every request: hosts, tokens, limits, bodies, problems, logs."""
