"""Learning rates, fixed by plain runs before gradwatch ever saw a model.

The first rung of a ladder is used wherever it trains by the rule of `training.py` at
seeds 0, 1 and 2; the others name the first rung that does. Where no rung trains, the
first one stands. `python -m benchmarks.published.tune` prints these tables.
"""

from __future__ import annotations

ADAMW_LADDER: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
SGD_LADDER: tuple[float, ...] = (
    0.05,
    0.02,
    0.01,
    0.005,
    0.003,
    0.001,
    0.0001,
    0.1,
    0.2,
    0.4,
    1.0,
)

ADAMW_RATES: dict[str, float] = {
    "bert-mlm": 0.003,
    "distilbert-mlm": 0.003,
    "mobilebert": 0.01,
    "fnet-mlm": 0.003,
    "nystromformer": 0.003,
    "cohere": 0.01,
    "mt5-gated": 0.01,
    "pegasus": 0.01,
    "marian": 0.01,
    "m2m-100": 0.003,
    "prophetnet": 0.003,
    # efficientnet: none trains
    "mobilevit": 0.01,
    "whisper": 0.003,
    "speech-to-text": 0.003,
    # siglip: none trains
    "vilt": 0.003,
    "autoformer": 0.003,
}

SGD_RATES: dict[str, float] = {
    "albert": 0.02,
    # electra: none trains
    # mobilebert: none trains
    # nystromformer: none trains
    "rembert": 0.02,
    "canine": 0.02,
    "cohere": 1.0,
    # deit: none trains
    "swinv2": 0.02,
    "mobilenet-v2": 0.02,
    # efficientnet: none trains
    # mobilevit: none trains
    "pvt": 0.02,
    "wav2vec2-ctc-stable": 0.02,
    # sew: none trains
    # audio-spectrogram-transformer: none trains
    "clip": 0.01,
    # siglip: none trains
    "metaclip-2": 0.01,
    "altclip": 0.005,
    # blip: none trains
    # vilt: none trains
    "patchtst": 0.4,
    "time-series-transformer": 0.02,
    "autoformer": 0.02,
}
