"""What the package's runs share."""
