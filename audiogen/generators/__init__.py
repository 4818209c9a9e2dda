"""Generators make mel frames: condition -> mel."""

TABLE = {
    "autoencoder": "audiogen.generators.autoencoder:Autoencoder",
    "diffusion": "audiogen.generators.diffusion:MelDiffusion",
    "recurrent": "audiogen.generators.recurrent:RecurrentMel",
}
