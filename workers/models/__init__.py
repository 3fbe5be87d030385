"""Architectures, one per file, each nothing but `nn.Module`s: `moonshine`, `whisper`; `decoder` is what they share."""
