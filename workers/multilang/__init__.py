"""The multilang pool: `recognizer` builds what it serves."""
