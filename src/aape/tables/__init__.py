"""The paper's tables: a queue that runs their cells, and what finished runs put into them (method 10)."""
