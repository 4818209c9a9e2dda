"""Vocoders render mel frames as audio."""

TABLE = {
    "wavenet": "vocoders.wavenet:WaveNet",
    "parallel_wavegan": "vocoders.parallel_wavegan:ParallelWaveGAN",
    "diffwave": "vocoders.diffwave:DiffWave",
    "vocos": "vocoders.vocos:Vocos",
    "hifigan": "vocoders.hifigan:HiFiGAN",
    "melgan": "vocoders.melgan:MelGAN",
    "griffin_lim": "vocoders.griffin_lim:GriffinLim",
}
