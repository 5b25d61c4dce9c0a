"""Evaluate: scorers side by side on outputs that are known, and replayed deployments over rounds."""
