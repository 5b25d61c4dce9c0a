"""Earlier formats of ranker files, each turned into the next."""
