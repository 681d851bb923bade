"""The evaluation harness: what survives a codec, at which rate and cost."""
