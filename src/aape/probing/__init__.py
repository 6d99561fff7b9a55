"""Linear probing: how much of a labelled set a linear layer reads off the frozen encoder (method 9)."""
