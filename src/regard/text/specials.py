"""The special tokens of a vocabulary, and the 256 byte tokens that spell characters without a subword."""

from __future__ import annotations

PAD, UNK, BOS, EOS = SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
MASK = "<mask>"  # of vocabularies for masked words, after all other entries
