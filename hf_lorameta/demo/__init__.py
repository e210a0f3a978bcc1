"""The embedded bank, the embedded dataset, and the whole way played on this machine."""
