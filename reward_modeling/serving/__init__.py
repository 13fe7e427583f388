"""A reward model behind HTTP: the server, the protocols it speaks, and the check of any server against the model."""
