"""Writes the GGUF files of the tests, and what transformers and gguf make of them.

    pip install torch transformers safetensors tokenizers sentencepiece gguf numpy
    python make_gguf.py

Each `gguf/<name>.gguf` comes with `<name>.safetensors`:

| entry | content |
|---|---|
| `tokens`, `logits` | a text, and scores after each of its tokens in single precision, by transformers |
| `text` | tokens of `make.TEXT`, by the tokenizer that the file was made from |
| `row.<tensor>` | first row of every quantised tensor, by the dequantisation of the package gguf |

| file | content |
|---|---|
| `quantised` | a Llama of one layer with every kind of blocks, byte-level BPE |
| `pieces` | a Gemma 3 in f32 with pieces of SentencePiece |
| `qwen3` | a Qwen 3 in f16 with scaled positions |
| `llama3` | a Llama whose file has divisors of the rotary frequencies |
"""

import io
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file
from transformers import (
    Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
)

from make import TEXT, random, tokenizer

OUT = Path(__file__).parent / "gguf"
VOCABULARY, LENGTH = 300, 20
GENERATOR = np.random.default_rng(1)

SMALL = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2,
    head_dim=12, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)


def permuted(weight, heads):
    """llama.cpp's order of the rows of queries and keys."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(shape)


def blocks(kind, shape):
    """Random blocks of a kind that the package can read but not make, of numbers near 0.1."""
    size, bytes_ = gguf.GGML_QUANT_SIZES[kind]
    raw = GENERATOR.integers(0, 256, (shape[0], shape[1] // size, bytes_), dtype=np.uint8)
    scale = lambda number: np.frombuffer(np.float16(number).tobytes(), np.uint8)
    if kind == Type.Q6_K:
        raw[..., -2:] = scale(5e-5)
    else:
        raw[..., 0:2], raw[..., 2:4] = scale(3e-4), scale(1e-3)
    return raw.reshape(shape[0], -1)


def write(name, model, architecture, settings, tokens, kinds, text, permute=False, minus_one=False, default=Type.F32):
    config, state = model.config, model.state_dict()
    layers = config.num_hidden_layers
    writer = gguf.GGUFWriter(str(OUT / f"{name}.gguf"), architecture)
    writer.add_block_count(layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    settings(writer)
    tokens(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], layers)
    expected = {}
    for theirs, tensor in list(state.items()):
        if theirs == "lm_head.weight" and config.tie_word_embeddings:
            continue
        ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        weight = tensor.float().numpy()
        if minus_one and theirs.endswith("norm.weight"):
            weight = weight + 1
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        heads = next((count for part, count in heads.items() if part in theirs), None) if permute else None
        order = (lambda x: permuted(x, heads)) if heads else (lambda x: x)
        back = (lambda x: x.reshape(heads, x.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)) if heads else (lambda x: x)
        kind = kinds.get(ours, default if weight.ndim == 2 else Type.F32)
        if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
            raw = blocks(kind, weight.shape)
        elif kind == Type.F32:
            raw = order(weight).astype(np.float32)
        elif kind == Type.F16:
            raw = order(weight).astype(np.float16)
        else:
            raw = quantize(order(weight), kind)
        writer.add_tensor(ours, raw, raw_dtype=None if raw.dtype in (np.float32, np.float16) else kind)
        stored = dequantize(raw, kind) if raw.dtype == np.uint8 else raw.astype(np.float32)
        if raw.dtype == np.uint8:
            expected[f"row.{ours}"] = torch.from_numpy(stored[0].copy())
        stored = back(stored)
        if minus_one and theirs.endswith("norm.weight"):
            stored = stored - np.float32(1)
        tensor.copy_(torch.from_numpy(stored.copy()))
    for ours, factors in getattr(model, "extra", {}).items():
        writer.add_tensor(ours, factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(state)
    ids = torch.randint(VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(5))
    expected |= {"tokens": ids, "logits": model(ids).logits, "text": torch.tensor(text)}
    save_file(expected, OUT / f"{name}.safetensors")
    for path in OUT.iterdir():
        path.chmod(0o644)


def byte_level(writer):
    import json
    model = json.loads(tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<start>" else 1 for token in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokens.index("<start>"))
    writer.add_eos_token_id(7)
    writer.add_eot_token_id(9)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")


BYTE_LEVEL_TEXT = tokenizer().encode(TEXT).ids


def pieces():
    model = io.BytesIO()
    corpus = [line for line in __doc__.splitlines() if line.strip()] + [TEXT]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, model_type="bpe", vocab_size=VOCABULARY + 80,
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@torch.no_grad()
def main():
    OUT.mkdir(exist_ok=True)
    config = LlamaConfig(**{
        **SMALL, "hidden_size": 256, "intermediate_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 32, "num_hidden_layers": 1, "tie_word_embeddings": False,
    })
    model = random(LlamaForCausalLM(config), 1)
    kinds = {
        "token_embd.weight": Type.Q8_0, "output.weight": Type.BF16, "blk.0.attn_q.weight": Type.Q4_K,
        "blk.0.attn_k.weight": Type.Q5_K, "blk.0.attn_v.weight": Type.Q6_K, "blk.0.attn_output.weight": Type.Q4_0,
        "blk.0.ffn_gate.weight": Type.Q4_1, "blk.0.ffn_up.weight": Type.Q5_0, "blk.0.ffn_down.weight": Type.Q5_1,
    }
    def settings(writer):
        writer.add_rope_freq_base(5000.0)
        writer.add_key_length(32)
    model.config.rope_parameters["rope_theta"] = 5000.0
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    write("quantised", model, "llama", settings, byte_level, kinds, BYTE_LEVEL_TEXT, permute=True)

    sp = pieces()
    count = sp.get_piece_size()
    config = Gemma3TextConfig(**{
        **SMALL, "vocab_size": count, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 6, "sliding_window": 5, "query_pre_attn_scalar": 8,
    })
    model = random(Gemma3ForCausalLM(config), 2)
    def spm(writer):
        kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([sp.id_to_piece(i) for i in range(count)])
        writer.add_token_scores([sp.get_score(i) for i in range(count)])
        writer.add_token_types([kind(i) for i in range(count)])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(True)
    def settings(writer):
        writer.add_sliding_window(5)
        writer.add_key_length(8)
        writer.add_rope_freq_base(1e6)
    write("pieces", model, "gemma3", settings, spm, {}, [1] + sp.encode(TEXT), minus_one=True)

    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 2000.0}
    config = Qwen3Config(**SMALL, num_hidden_layers=2, rope_parameters=rope, tie_word_embeddings=True)
    model = random(Qwen3ForCausalLM(config), 3)
    def settings(writer):
        writer.add_key_length(12)
        writer.add_rope_freq_base(2000.0)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
    write("qwen3", model, "qwen3", settings, byte_level, {}, BYTE_LEVEL_TEXT, default=Type.F16)

    rope = dict(
        rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )
    config = LlamaConfig(**SMALL, num_hidden_layers=1, rope_parameters=rope, attention_bias=True, tie_word_embeddings=True)
    model = random(LlamaForCausalLM(config), 4)
    rotary = model.model.rotary_emb
    plain = 1.0 / 500.0 ** (torch.arange(0, 12, 2).float() / 12)
    model.extra = {"rope_freqs.weight": (plain / rotary.inv_freq).float().numpy()}
    def settings(writer):
        writer.add_key_length(12)
        writer.add_rope_freq_base(500.0)
    write("llama3", model, "llama", settings, byte_level, {}, BYTE_LEVEL_TEXT, permute=True)


if __name__ == "__main__":
    main()
