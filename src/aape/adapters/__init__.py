"""One small file per tool that people already use."""
