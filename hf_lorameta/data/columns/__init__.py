"""Which column has which role, and how a row of them becomes (input, output)."""
