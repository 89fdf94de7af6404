"""Models by name: found on disk (``locate``), or downloaded first (``pull``)."""
