"""From text to training rows: corpus, tokenizer, token store, mixture, batches."""
