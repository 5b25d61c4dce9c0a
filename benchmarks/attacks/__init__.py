"""The sub-campaigns of benchmarks/attack.py, one module each."""
