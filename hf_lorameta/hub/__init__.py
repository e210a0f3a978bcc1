"""The Hugging Face Hub: the client, its errors, and base models."""
