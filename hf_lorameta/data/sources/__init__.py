"""Datasets of the Hub, in files, in folders and in memory, as streams of rows."""
