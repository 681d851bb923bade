"""Downstream models: backbones by name, and the stems that let them read latents."""
