"""Parts that every request passes through: hosts, tokens, limits, bodies, problems, logs."""
