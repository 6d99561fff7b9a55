"""The demo, and the recordings that come with the package."""
