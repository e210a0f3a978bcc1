"""Datasets: columns, rows, token profiles and tokenizers."""
