"""Fine-tuning: encoder and classification head, trained on labelled audio (method 8)."""
