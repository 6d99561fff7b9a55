"""What an encoder is judged by: fine-tuning, probing, metrics and scores."""
