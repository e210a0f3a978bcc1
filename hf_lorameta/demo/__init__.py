"""The embedded bank, an example dataset, and a demo that runs on this machine."""
