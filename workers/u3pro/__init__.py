"""The u3pro pool: `recognizer` builds what it serves; `prompt` makes its context."""
