"""Pages that open from disk in any browser: one file, no network, and nothing in a name can become part of them."""
