"""The wire format: payloads bit by bit, and a strict reader."""
