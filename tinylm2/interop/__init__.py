"""Real weights: Hugging Face's Llama folders and GGUF files in, Hugging Face folders out."""
