"""From text to the built-in model: corpus, tokenizer, training, evaluation, packing."""
