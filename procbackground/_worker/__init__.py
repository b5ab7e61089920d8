"""The child's side: what runs in a worker process around the user's function."""
