//! F6: a vLLM look-alike with no GPU.
