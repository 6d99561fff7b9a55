"""What every run shares: its folder, its files, its loop."""
