"""Building blocks of models, each testable alone: embeddings, towers, interaction units, similarities."""
