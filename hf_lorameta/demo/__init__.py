"""The embedded bank, the embedded dataset, and a demo that runs on this machine."""
