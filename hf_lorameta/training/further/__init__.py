"""Training a generated adapter further on labeled rows."""
