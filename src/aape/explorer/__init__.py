"""The page of `aape explore`: sounds on a map, to be seen, heard and compared; one HTML file, no network."""
