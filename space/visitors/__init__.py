"""Limits on what one visitor may use, so that no visitor has to wait for another's requests."""
