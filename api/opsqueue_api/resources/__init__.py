"""The routes: what each of them takes, does and answers."""
