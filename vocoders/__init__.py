"""Vocoders render mel frames as audio."""

TABLE = {
    "parallel_wavegan": "vocoders.parallel_wavegan:ParallelWaveGAN",
    "vocos": "vocoders.vocos:Vocos",
    "griffin_lim": "vocoders.griffin_lim:GriffinLim",
}
