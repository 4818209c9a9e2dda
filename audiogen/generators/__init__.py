"""Generators make mel frames: condition -> mel."""

TABLE = {"diffusion": "audiogen.generators.diffusion:MelDiffusion"}
