"""Model cards: metadata, text, tables and the coefficient chart."""
