"""The routes of the API: their parameters, bodies, actions and answers."""
