def export(config: object) -> None:
    """Export."""
