"""Generators make mel frames: condition -> mel."""

TABLE = {
    "autoencoder": "audiogen.generators.autoencoder:Autoencoder",
    "diffusion": "audiogen.generators.diffusion:MelDiffusion",
    "latent_diffusion": "audiogen.generators.latent_diffusion:LatentDiffusion",
    "recurrent": "audiogen.generators.recurrent:RecurrentMel",
    "gan": "audiogen.generators.gan:GANMel",
}
