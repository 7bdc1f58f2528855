"""Text encoders and encoder-decoders."""

from __future__ import annotations

from typing import Any

from benchmarks.published import data
from benchmarks.published.architecture import Architecture, BatchFn, from_config

# The usual names of the sizes in a config, shrunk.
SMALL: dict[str, Any] = {
    "vocab_size": data.VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SMALL_SEQ2SEQ: dict[str, Any] = {
    "vocab_size": data.VOCAB_SIZE,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
SMALL_T5: dict[str, Any] = {
    "vocab_size": data.VOCAB_SIZE,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


def _classifier(
    name: str, prefix: str, *, batch: BatchFn = data.classified_text, **options: Any
) -> Architecture:
    """Return an encoder with its own sequence-classification head."""
    return Architecture(
        name,
        "text-encoder",
        from_config(
            f"{prefix}ForSequenceClassification",
            f"{prefix}Config",
            num_labels=data.NUM_CLASSES,
            **options,
        ),
        batch,
    )


def _masked(name: str, prefix: str, **options: Any) -> Architecture:
    """Return an encoder with its own masked-language head (usually tied)."""
    return Architecture(
        name,
        "text-encoder",
        from_config(f"{prefix}ForMaskedLM", f"{prefix}Config", **options),
        data.masked_text,
    )


def _seq2seq(name: str, model_class: str, config: str, **options: Any) -> Architecture:
    """Return an encoder-decoder with its own language head."""
    return Architecture(
        name, "seq2seq", from_config(model_class, config, **options), data.translation
    )


TEXT_ENCODERS: tuple[Architecture, ...] = (
    _classifier("bert", "Bert", **SMALL),
    _masked("bert-mlm", "Bert", **SMALL),
    _classifier("roberta", "Roberta", **SMALL),
    _classifier("roberta-prelayernorm", "RobertaPreLayerNorm", **SMALL),
    _classifier("albert", "Albert", **SMALL, embedding_size=16),
    _classifier("electra", "Electra", **SMALL, embedding_size=16),
    _classifier(
        "deberta",
        "Deberta",
        **SMALL,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        max_relative_positions=16,
    ),
    _classifier(
        "deberta-v2",
        "DebertaV2",
        **SMALL,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
    ),
    _masked(
        "distilbert-mlm",
        "DistilBert",
        vocab_size=data.VOCAB_SIZE,
        dim=32,
        n_layers=3,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=64,
    ),
    _classifier("mpnet", "MPNet", **SMALL),
    _classifier("megatron-bert", "MegatronBert", **SMALL),
    _classifier(
        "mobilebert",
        "MobileBert",
        **SMALL,
        embedding_size=16,
        true_hidden_size=16,
        intra_bottleneck_size=16,
    ),
    _classifier(
        "squeezebert",
        "SqueezeBert",
        **SMALL,
        embedding_size=32,
        q_groups=2,
        k_groups=2,
        v_groups=2,
        post_attention_groups=1,
        intermediate_groups=2,
        output_groups=2,
    ),
    _classifier("convbert", "ConvBert", **SMALL, embedding_size=32, conv_kernel_size=3),
    _masked(
        "fnet-mlm",
        "FNet",
        **{k: v for k, v in SMALL.items() if k != "num_attention_heads"},
    ),
    _classifier(
        "nystromformer",
        "Nystromformer",
        **SMALL,
        num_landmarks=4,
        segment_means_seq_len=16,
    ),
    _classifier("roformer", "RoFormer", **SMALL, embedding_size=32),
    _classifier(
        "rembert", "RemBert", **SMALL, input_embedding_size=16, output_embedding_size=32
    ),
    _classifier(
        "modernbert",
        "ModernBert",
        **SMALL,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    ),
    _classifier(
        "xlnet",
        "XLNet",
        vocab_size=data.VOCAB_SIZE,
        d_model=32,
        n_layer=3,
        n_head=4,
        d_inner=64,
        pad_token_id=5,
    ),
    _classifier(
        "funnel",
        "Funnel",
        vocab_size=data.VOCAB_SIZE,
        d_model=32,
        n_head=4,
        d_head=8,
        d_inner=64,
        block_sizes=[1, 1, 1],
        num_decoder_layers=1,
    ),
    _classifier(
        "longformer",
        "Longformer",
        **SMALL,
        attention_window=8,
    ),
    _classifier(
        "canine",
        "Canine",
        **{**SMALL, "vocab_size": 64},
        num_hash_buckets=64,
        local_transformer_stride=8,
        batch=data.with_options(data.classified_text, length=32),
    ),
    _classifier("layoutlm", "LayoutLM", **SMALL),
)

SEQ2SEQ: tuple[Architecture, ...] = (
    _seq2seq("t5", "T5ForConditionalGeneration", "T5Config", **SMALL_T5),
    _seq2seq(
        "mt5-gated",
        "MT5ForConditionalGeneration",
        "MT5Config",
        **SMALL_T5,
        feed_forward_proj="gated-gelu",
    ),
    _seq2seq(
        "longt5",
        "LongT5ForConditionalGeneration",
        "LongT5Config",
        **SMALL_T5,
        local_radius=3,
    ),
    _seq2seq("bart", "BartForConditionalGeneration", "BartConfig", **SMALL_SEQ2SEQ),
    _seq2seq("mbart", "MBartForConditionalGeneration", "MBartConfig", **SMALL_SEQ2SEQ),
    _seq2seq(
        "pegasus", "PegasusForConditionalGeneration", "PegasusConfig", **SMALL_SEQ2SEQ
    ),
    _seq2seq("marian", "MarianMTModel", "MarianConfig", **SMALL_SEQ2SEQ),
    _seq2seq(
        "m2m-100", "M2M100ForConditionalGeneration", "M2M100Config", **SMALL_SEQ2SEQ
    ),
    _seq2seq(
        "prophetnet",
        "ProphetNetForConditionalGeneration",
        "ProphetNetConfig",
        vocab_size=data.VOCAB_SIZE,
        hidden_size=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        max_position_embeddings=64,
        ngram=2,
        num_buckets=8,
        relative_max_distance=16,
    ),
)
