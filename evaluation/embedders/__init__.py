"""Embedders: audio -> feature vectors, one row a window. A new one is one new file and one line here."""

TABLE = {
    "melstats": "evaluation.embedders.melstats:MelStats",
    "musicnn": "evaluation.embedders.musicnn:MusicNN",
    "musicnn_mtt": "evaluation.embedders.musicnn:MusicNNMTT",
    "yamnet": "evaluation.embedders.yamnet:YAMNet",
}
