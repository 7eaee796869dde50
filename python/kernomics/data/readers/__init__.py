"""What cells come in: AnnData, files, stores, and what is no such thing."""
