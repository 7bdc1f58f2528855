"""Published architectures of the transformers library, shrunk by their configs."""
