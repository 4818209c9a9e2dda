"""Generators make mel frames: condition -> mel."""

TABLE = {
    "autoencoder": "audiogen.generators.autoencoder:Autoencoder",
    "diffusion": "audiogen.generators.diffusion:MelDiffusion",
    "enhancer": "audiogen.generators.enhancer:MelEnhancer",
    "latent_diffusion": "audiogen.generators.latent_diffusion:LatentDiffusion",
    "recurrent": "audiogen.generators.recurrent:RecurrentMel",
    "seq2seq": "audiogen.generators.seq2seq:Seq2SeqMel",
    "gan": "audiogen.generators.gan:GANMel",
    "mel_codec": "audiogen.generators.mel_codec:MelCodec",
    "token_transformer": "audiogen.generators.token_transformer:TokenTransformer",
    "wavenet": "audiogen.generators.wavenet:WaveNetGenerator",
}
