"""Numbers (arrays in, arrays out) and figures (arrays in, Figure out)."""
