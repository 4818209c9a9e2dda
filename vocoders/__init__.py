"""Vocoders render mel frames as audio."""

TABLE = {
    "parallel_wavegan": "vocoders.parallel_wavegan:ParallelWaveGAN",
    "griffin_lim": "vocoders.griffin_lim:GriffinLim",
}
