"""What clients say to the server, a file for each protocol: its fields, its tokens, its answers."""
