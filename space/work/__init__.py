"""What visitors ask for: read, plan, make, try and publish."""
