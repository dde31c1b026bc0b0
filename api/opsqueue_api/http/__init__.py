"""What every request goes through: hosts, tokens, limits, bodies, problems, logs."""
