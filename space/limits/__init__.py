"""What one visitor may take, so that no visitor has to wait for another's requests."""
