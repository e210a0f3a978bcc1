"""What visitors ask for: read, plan, make, try, improve and publish."""
