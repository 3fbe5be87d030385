"""The english pool: `recognizer` builds what it serves."""
