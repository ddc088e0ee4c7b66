"""tinylm2: a Llama-style decoder with a gated memory (LM2), every gradient written by hand, for NumPy and CuPy alike.

The letters, everywhere the same:

    B  stories of a batch         T  tokens of a segment      S  segments of a story    N  slots of a memory bank
    D  width of the model         H  heads                    G  key/value heads        K  width of a head, D / H
    F  width of the feed-forward  V  words of the vocabulary  L  blocks                 A  tokens kept for the answer
    U  number of keys, where it differs from the number of queries T
"""

__version__ = "0.2.0"
