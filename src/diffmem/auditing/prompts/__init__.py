"""Prompts: which of them bring back training images, beside the images of their own captions and beside the base model."""
