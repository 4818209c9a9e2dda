"""Embedders: audio -> feature vectors, one row a window. A new one is one new file and one line here."""

TABLE = {
    "clap": "evaluation.embedders.clap:CLAP",
    "clap_audio": "evaluation.embedders.clap:CLAPAudio",
    "encodec": "evaluation.embedders.encodec:EnCodec",
    "melstats": "evaluation.embedders.melstats:MelStats",
    "mert": "evaluation.embedders.mert:MERT",
    "musicnn": "evaluation.embedders.musicnn:MusicNN",
    "musicnn_mtt": "evaluation.embedders.musicnn:MusicNNMTT",
    "panns": "evaluation.embedders.panns:PANNs",
    "panns_32k": "evaluation.embedders.panns:PANNs32k",
    "vggish": "evaluation.embedders.vggish:VGGish",
    "vggish_google": "evaluation.embedders.vggish:VGGishGoogle",
    "vggish_pca": "evaluation.embedders.vggish:VGGishPCA",
    "vggish_relu": "evaluation.embedders.vggish:VGGishReLU",
    "yamnet": "evaluation.embedders.yamnet:YAMNet",
}
