"""Datasets in files, in folders and in memory."""
