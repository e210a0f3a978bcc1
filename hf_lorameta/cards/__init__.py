"""The model card: metadata, text, license, scores and coefficient chart."""
