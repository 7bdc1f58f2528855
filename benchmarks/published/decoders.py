"""Decoder-only language models: attention, state space, and mixture of experts."""

from __future__ import annotations

from typing import Any

from benchmarks.published import data
from benchmarks.published.architecture import Architecture, from_config
from benchmarks.published.text import SMALL, SMALL_T5

SMALL_GQA: dict[str, Any] = {**SMALL, "num_key_value_heads": 2}
# Special tokens of the defaults lie beyond the small vocabulary.
TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
SMALL_EXPERTS: dict[str, Any] = {
    **SMALL_GQA,
    **TOKENS,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
}


def _causal(
    name: str,
    prefix: str,
    *,
    config: str = "",
    modality: str = "decoder",
    model: str = "",
    **options: Any,
) -> Architecture:
    """Return a causal language model with its own head."""
    return Architecture(
        name,
        modality,
        from_config(
            model or f"{prefix}ForCausalLM", config or f"{prefix}Config", **options
        ),
        data.next_token,
    )


DECODERS: tuple[Architecture, ...] = (
    _causal(
        "gpt2",
        "GPT2",
        model="GPT2LMHeadModel",
        vocab_size=data.VOCAB_SIZE,
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        **TOKENS,
    ),
    _causal(
        "gpt-neo",
        "GPTNeo",
        vocab_size=data.VOCAB_SIZE,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        max_position_embeddings=64,
        **TOKENS,
    ),
    _causal("gpt-neox", "GPTNeoX", **SMALL, **TOKENS),
    _causal(
        "gptj",
        "GPTJ",
        vocab_size=data.VOCAB_SIZE,
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        rotary_dim=4,
        **TOKENS,
    ),
    _causal(
        "opt",
        "OPT",
        **{k: v for k, v in SMALL.items() if k != "intermediate_size"},
        ffn_dim=64,
        word_embed_proj_dim=32,
        **TOKENS,
    ),
    _causal(
        "bloom",
        "Bloom",
        vocab_size=data.VOCAB_SIZE,
        hidden_size=32,
        n_layer=3,
        n_head=4,
        **TOKENS,
    ),
    _causal("llama", "Llama", **SMALL_GQA, **TOKENS),
    _causal("mistral", "Mistral", **SMALL_GQA, **TOKENS, sliding_window=8),
    _causal("qwen2", "Qwen2", **SMALL_GQA, **TOKENS),
    _causal("qwen3", "Qwen3", **SMALL_GQA, **TOKENS, head_dim=8),
    _causal("gemma", "Gemma", **SMALL_GQA, **TOKENS, head_dim=8),
    _causal("gemma2", "Gemma2", **SMALL_GQA, **TOKENS, head_dim=8, sliding_window=8),
    _causal(
        "gemma3",
        "Gemma3",
        config="Gemma3TextConfig",
        **SMALL_GQA,
        **TOKENS,
        head_dim=8,
        sliding_window=8,
    ),
    _causal("phi", "Phi", **SMALL, **TOKENS),
    _causal("phi3", "Phi3", **SMALL_GQA, **TOKENS),
    _causal("olmo2", "Olmo2", **SMALL_GQA, **TOKENS),
    _causal("cohere", "Cohere", **SMALL_GQA, **TOKENS),
    _causal("stablelm", "StableLm", **SMALL_GQA, **TOKENS),
    _causal(
        "falcon",
        "Falcon",
        vocab_size=data.VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        **TOKENS,
    ),
    _causal(
        "mamba",
        "Mamba",
        vocab_size=data.VOCAB_SIZE,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        pad_token_id=0,
        **TOKENS,
    ),
    _causal(
        "mamba2",
        "Mamba2",
        vocab_size=data.VOCAB_SIZE,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        num_heads=8,
        head_dim=8,
        n_groups=1,
        chunk_size=8,
        pad_token_id=0,
        **TOKENS,
    ),
    _causal(
        "rwkv",
        "Rwkv",
        vocab_size=data.VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        context_length=32,
        **TOKENS,
    ),
    _causal(
        "recurrent-gemma",
        "RecurrentGemma",
        vocab_size=data.VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        lru_width=32,
        attention_window_size=8,
        pad_token_id=0,
        **TOKENS,
    ),
)

MOE: tuple[Architecture, ...] = (
    _causal("mixtral", "Mixtral", modality="moe", **SMALL_EXPERTS, num_local_experts=4),
    _causal(
        "qwen2-moe",
        "Qwen2Moe",
        modality="moe",
        **SMALL_EXPERTS,
        num_experts=4,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    ),
    _causal(
        "qwen3-moe",
        "Qwen3Moe",
        modality="moe",
        **SMALL_EXPERTS,
        num_experts=4,
        moe_intermediate_size=32,
        head_dim=8,
    ),
    _causal("olmoe", "Olmoe", modality="moe", **SMALL_EXPERTS, num_experts=4),
    _causal(
        "gpt-oss",
        "GptOss",
        modality="moe",
        **SMALL_EXPERTS,
        num_local_experts=4,
        head_dim=8,
        sliding_window=8,
    ),
    _causal(
        "granite-moe",
        "GraniteMoe",
        modality="moe",
        **SMALL_EXPERTS,
        num_local_experts=4,
    ),
    _causal(
        "deepseek-v3",
        "DeepseekV3",
        modality="moe",
        **{**SMALL, "num_key_value_heads": 4},
        **TOKENS,
        moe_intermediate_size=32,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    Architecture(
        "switch-transformers",
        "moe",
        from_config(
            "SwitchTransformersForConditionalGeneration",
            "SwitchTransformersConfig",
            **SMALL_T5,
            num_experts=4,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
            expert_capacity=64,
        ),
        data.translation,
    ),
)
