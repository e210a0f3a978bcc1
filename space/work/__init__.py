"""What visitors ask for: read, plan, make, try, train and publish."""
