"""Training the adapters of a bank."""
