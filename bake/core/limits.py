"""Limits on the claims of files that others made.

A header of some bytes can claim gigabytes, and a small archive can hold them. Each claim is compared with a limit
before memory is taken for it. The limits leave room above the largest models known (November 2026): Llama 3.1 405B has
126 layers of 16,384; Kimi K2, a mixture of 384 experts a layer, some 210,000 tensors in 62 files; published vector
sets have up to 171 emotions.
"""

from __future__ import annotations

MAX_LAYERS = 1024
MAX_HIDDEN = 65_536
MAX_ROW_FLOATS = 2**24
"""Layers times hidden size; 405B has 2.1 million."""
MAX_EMOTIONS = 1024
MAX_VECTORS = 2**30
"""Bytes of a file of vectors, and of its content; 171 emotions for a model of 27B take a quarter of it."""
MAX_EXPANSION = 100
"""Ratio of an archive's content to its file, above `MAX_ANY_EXPANSION`; floats shrink to nine tenths, rows of zeros to
a thousandth, and a set is not made of zeros."""
MAX_ANY_EXPANSION = 64 * 2**20
"""Bytes that an archive may hold whatever its size."""
MAX_PICKLE = 2**20
"""Bytes of the description of the tensors in a .pt; 171 emotions take 40,000."""
MAX_TENSORS = 300_000
"""Tensors of a model, in all files."""
MAX_DEVICES = 1024
"""Devices that share the heads of a model."""
MAX_WIDTH = 2**20
"""Outputs of a projection; the widest known, of an MLP, has 53,248."""
MAX_RANK = 65_536
"""Rank of a LoRA; it cannot be more than the width of a projection."""
MAX_PATTERNS = 2**18
"""Characters of the patterns in an adapter's config; one that names all experts of a model takes 100,000."""
MAX_HEADER = 32 * 2**20
"""Bytes of a safetensors header; those of the largest models have some hundred thousand in each file."""
MAX_GGUF_HEADER = 96 * 2**20
"""Bytes. The largest known vocabulary (Gemma's 262,000 tokens) takes 15 MB."""
MAX_GGUF_FIELDS = 10_000
"""Entries of the metadata; a model has some dozens."""
MAX_SMALL = 64 * 2**20
"""Bytes of a config, an index, a tokenizer's config, or a JSON file of vectors, which for 405B takes 50 million."""
MAX_UNDO = 2**28
"""Bytes of what an output keeps of its base; the old biases of a layer are as many as the new ones."""
MAX_GROUP = 2**26
"""Bytes of a group of rows that are woven; one of the largest matrices has a few million."""
MAX_ANSWERS = 256 * 2**20
"""Bytes of a file of queries or recorded answers, which users write themselves."""
MAX_PERSONA = 100_000
"""Bytes of a persona's file; the longest system prompt that it takes has 20,000 characters."""
MAX_FILES = 20_000
"""Files of a checkpoint's folder or repository."""
MAX_JSON_VALUES = 2**22
"""Values in a JSON document; a vector of 405B has 2.1 million numbers, the index of Kimi K2 210,000 names."""
MAX_JSON_GROUPS = 2**20
"""Lists and objects among them; a header has three for each tensor."""
