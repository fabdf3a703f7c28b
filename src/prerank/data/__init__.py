"""From files to batches: sources, the interaction log, protocols, sampling, the encoder and the loader."""
