"""Audio models and time-series models."""

from __future__ import annotations

import math
from typing import Any

import torch

from benchmarks.published import data
from benchmarks.published.architecture import Architecture, Batch, BatchFn, from_config

SMALL_WAVE: dict[str, Any] = {
    "vocab_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16, 16, 16],
    "conv_stride": [5, 2, 2],
    "conv_kernel": [10, 3, 3],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_length": 2,
    "mask_feature_length": 2,
}


def _waves(
    name: str, prefix: str, *, head: str = "SequenceClassification", **options: Any
) -> Architecture:
    """Return a waveform encoder with its own classification or CTC head."""
    batch: BatchFn = data.classified_waves
    options["num_labels"] = data.NUM_CLASSES
    if head == "CTC":
        batch = data.transcribed_waves
        options["ctc_loss_reduction"] = "mean"
        options.pop("num_labels")
    return Architecture(
        name,
        "audio",
        from_config(
            f"{prefix}For{head}", f"{prefix}Config", **{**SMALL_WAVE, **options}
        ),
        batch,
        chance=math.inf if head == "CTC" else None,
    )


AUDIO: tuple[Architecture, ...] = (
    _waves("wav2vec2", "Wav2Vec2"),
    _waves(
        "wav2vec2-ctc-stable",
        "Wav2Vec2",
        head="CTC",
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    ),
    _waves("wav2vec2-conformer", "Wav2Vec2Conformer", conv_depthwise_kernel_size=7),
    _waves("hubert", "Hubert"),
    _waves("wavlm", "WavLM", num_buckets=16, max_bucket_distance=32),
    _waves("unispeech", "UniSpeech"),
    _waves("sew", "SEW", squeeze_factor=2),
    _waves(
        "data2vec-audio",
        "Data2VecAudio",
        conv_pos_kernel_size=5,
        num_conv_pos_embeddings=2,
    ),
    Architecture(
        "audio-spectrogram-transformer",
        "audio",
        from_config(
            "ASTForAudioClassification",
            "ASTConfig",
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            patch_size=8,
            frequency_stride=4,
            time_stride=4,
            max_length=32,
            num_mel_bins=16,
            num_labels=data.NUM_CLASSES,
        ),
        data.classified_spectrograms,
    ),
    Architecture(
        "whisper",
        "audio",
        from_config(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            vocab_size=data.VOCAB_SIZE,
            num_mel_bins=16,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_source_positions=16,
            max_target_positions=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=3,
        ),
        data.transcribed_spectrograms,
    ),
    Architecture(
        "speech-to-text",
        "audio",
        from_config(
            "Speech2TextForConditionalGeneration",
            "Speech2TextConfig",
            vocab_size=data.VOCAB_SIZE,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            conv_channels=32,
            input_feat_per_channel=16,
            max_source_positions=64,
            max_target_positions=16,
        ),
        data.with_options(data.transcribed_spectrograms, time_first=True),
    ),
)


def _patches(seed: int, step: int) -> Batch:
    """Return a past and a future of sine waves."""
    wave = data.series(seed, step, length=40)
    return {"past_values": wave[:, :32], "future_values": wave[:, 32:]}


def _probabilistic(seed: int, step: int, *, context: int = 24, lag: int = 3) -> Batch:
    """Return a past and a future of one sine wave with its time features."""
    wave = data.series(seed, step, length=context + lag + 8, channels=1)[..., 0]
    past = context + lag
    time = torch.linspace(0.0, 1.0, past + 8)[None, :, None]
    features = time.expand(data.BATCH_SIZE, -1, -1)
    return {
        "past_values": wave[:, :past],
        "past_time_features": features[:, :past],
        "past_observed_mask": torch.ones(data.BATCH_SIZE, past),
        "future_values": wave[:, past:],
        "future_time_features": features[:, past:],
    }


WAVE_VARIANCE = 0.5
"""Mean squared error of predicting the mean of a sine wave."""

SMALL_FORECAST: dict[str, Any] = {
    "prediction_length": 8,
    "context_length": 24,
    "lags_sequence": [1, 2, 3],
    "num_time_features": 1,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}

TIME_SERIES: tuple[Architecture, ...] = (
    Architecture(
        "patchtst",
        "time-series",
        from_config(
            "PatchTSTForPrediction",
            "PatchTSTConfig",
            num_input_channels=3,
            context_length=32,
            prediction_length=8,
            patch_length=4,
            patch_stride=4,
            d_model=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            ffn_dim=64,
            loss="mse",
        ),
        _patches,
        chance=WAVE_VARIANCE,
    ),
    Architecture(
        "patchtsmixer",
        "time-series",
        from_config(
            "PatchTSMixerForPrediction",
            "PatchTSMixerConfig",
            num_input_channels=3,
            context_length=32,
            prediction_length=8,
            patch_length=4,
            patch_stride=4,
            d_model=16,
            num_layers=3,
        ),
        _patches,
        chance=WAVE_VARIANCE,
    ),
    Architecture(
        "time-series-transformer",
        "time-series",
        from_config(
            "TimeSeriesTransformerForPrediction",
            "TimeSeriesTransformerConfig",
            **SMALL_FORECAST,
        ),
        _probabilistic,
    ),
    Architecture(
        "informer",
        "time-series",
        from_config("InformerForPrediction", "InformerConfig", **SMALL_FORECAST),
        _probabilistic,
    ),
    Architecture(
        "autoformer",
        "time-series",
        from_config(
            "AutoformerForPrediction",
            "AutoformerConfig",
            **SMALL_FORECAST,
            label_length=4,
            moving_average=5,
        ),
        _probabilistic,
    ),
)
