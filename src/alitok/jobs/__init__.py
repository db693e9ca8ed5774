"""Floor 3: the models at work: iterators of batches in, iterators of batches out; nothing is trained here."""
