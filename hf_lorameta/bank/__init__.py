"""Banks of LoRA adapters: build, open, share, pack, fit and draw them."""
