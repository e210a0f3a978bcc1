"""Banks of adapters: the index, building, sharing, packing and measuring them."""
