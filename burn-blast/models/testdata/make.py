"""Writes the checkpoints of the tests, tiny and of random weights, and what the transformers library makes of them.

    pip install torch transformers safetensors tokenizers numpy
    python make.py

Each folder is a model as `save_pretrained` writes it, and `expected.safetensors`:

| entry | content |
|---|---|
| `tokens` | two texts of equal length |
| `logits` | scores after each of their tokens |
| `logits_f32` | the same of the model converted to single precision, where it is not |
| `greedy` | continuation of the first text by `generate` in single precision |
| `nats` | cost of the first text by a sliding window of 8 tokens, stride 5 |
| `text` | tokens of `TEXT`, where there is a tokenizer |

The folder `packed` holds some weights as blocks, written here from the description in `docs/src/files.md` and without
burn-blast; what is expected comes from the model with these blocks in place and zeros elsewhere.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig,
    MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM
)

HERE = Path(__file__).parent
TEXT = "The quick brown fox: naïve café 🦙, it's 2024!"
LENGTH, NEW, WINDOW, STRIDE, BLOCK = 24, 12, 8, 5, 8

LLAMA = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=44,  # not a multiple of the block
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=None,
    eos_token_id=None,
)


def random(model, seed):
    """Gives every parameter, biases and norms too, values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            matrix = parameter.dim() == 2
            spread = parameter.shape[-1] ** -0.5 if matrix else 0.2
            is_scale = not matrix and name.endswith("weight")
            parameter.copy_(noise * spread + (1.0 if is_scale else 0.0))
    return model.eval()


def nats(model, text):
    """The strided evaluation of transformers' guide to perplexity, summed instead of averaged."""
    total, done = 0.0, 0
    for start in range(0, len(text), STRIDE):
        end = min(start + WINDOW, len(text))
        ids = text[start:end][None]
        shares = torch.log_softmax(model(ids).logits[0].double(), -1)
        for position in range(max(done, start + 1), end):
            total -= shares[position - 1 - start, text[position]].item()
        done = end
        if end == len(text):
            break
    return torch.tensor([total], dtype=torch.float64)


@torch.no_grad()
def expect(model, folder, extra=None):
    vocabulary = model.config.vocab_size
    tokens = torch.randint(vocabulary, (2, LENGTH), generator=torch.Generator().manual_seed(5))
    expected = {"tokens": tokens, "logits": model(tokens).logits.float(), **(extra or {})}
    if model.dtype != torch.float32:
        # Read again: a conversion of the model would not restore its rotary frequencies.
        model = type(model).from_pretrained(folder, dtype=torch.float32).eval()
        expected["logits_f32"] = model(tokens).logits
    whole = model.generate(
        tokens[:1], attention_mask=torch.ones_like(tokens[:1]), do_sample=False, max_new_tokens=NEW
    )
    expected["greedy"] = whole[0, LENGTH:].contiguous()
    expected["nats"] = nats(model, tokens[0])
    save_file(expected, folder / "expected.safetensors")
    # It says nothing of these models that config.json does not.
    (folder / "generation_config.json").unlink()
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def tokenizer():
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LLAMA["vocab_size"],
        special_tokens=["<start>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    byte_level.train_from_iterator([__doc__, TEXT], trainer)
    byte_level.post_processor = processors.TemplateProcessing(
        single="<start> $A", special_tokens=[("<start>", byte_level.token_to_id("<start>"))]
    )
    return byte_level


def llama3():
    folder = HERE / "llama3"
    rope = dict(
        rope_type="llama3",
        rope_theta=500.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    config = LlamaConfig(**LLAMA, head_dim=16, rope_parameters=rope, tie_word_embeddings=False)
    model = random(LlamaForCausalLM(config), 1)
    model.save_pretrained(folder)
    byte_level = tokenizer()
    byte_level.save(str(folder / "tokenizer.json"))
    expect(model, folder, {"text": torch.tensor(byte_level.encode(TEXT).ids)})


def tied():
    folder = HERE / "tied"
    config = LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
    model = random(LlamaForCausalLM(config), 2).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="20KB")
    expect(LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval(), folder)


def simple(name, seed, model_class, config_class, **settings):
    """A model of one family, with windows shorter than the text."""
    config = config_class(**{**LLAMA, "pad_token_id": None, **settings})
    model = random(model_class(config), seed)
    model.save_pretrained(HERE / name)
    expect(model, HERE / name)


def mistral():
    simple("mistral", 7, MistralForCausalLM, MistralConfig, head_dim=12, sliding_window=9, tie_word_embeddings=False)


def qwen2():
    simple(
        "qwen2", 8, Qwen2ForCausalLM, Qwen2Config,
        use_sliding_window=True, sliding_window=7, max_window_layers=1, tie_word_embeddings=True,
    )


def qwen3():
    simple("qwen3", 9, Qwen3ForCausalLM, Qwen3Config, head_dim=12, tie_word_embeddings=False)


def gemma3():
    simple(
        "gemma3", 10, Gemma3ForCausalLM, Gemma3TextConfig,
        head_dim=12, sliding_window=6, num_hidden_layers=3, query_pre_attn_scalar=20,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    )


def smollm3():
    simple(
        "smollm3", 11, SmolLM3ForCausalLM, SmolLM3Config,
        no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=10, tie_word_embeddings=True,
    )


def yarn():
    rope = dict(rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=16)
    simple("yarn", 12, LlamaForCausalLM, LlamaConfig, num_hidden_layers=1, rope_parameters=rope, tie_word_embeddings=True)


def dynamic():
    rope = dict(rope_type="dynamic", rope_theta=500.0, factor=4.0)
    simple(
        "dynamic", 13, LlamaForCausalLM, LlamaConfig,
        num_hidden_layers=1, max_position_embeddings=16, rope_parameters=rope, tie_word_embeddings=True,
    )


def longrope():
    rope = dict(
        rope_type="longrope", rope_theta=500.0, short_factor=[1.0, 1.1, 1.2, 1.5], long_factor=[1.0, 2.0, 3.0, 4.5],
        original_max_position_embeddings=16,
    )
    simple(
        "longrope", 14, LlamaForCausalLM, LlamaConfig,
        num_hidden_layers=1, max_position_embeddings=64, rope_parameters=rope, tie_word_embeddings=True,
    )


def gpt2():
    folder = HERE / "gpt2"
    config = GPT2Config(
        vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=64,
        bos_token_id=None, eos_token_id=None,
    )
    model = random(GPT2LMHeadModel(config), 3)
    model.save_pretrained(folder)
    expect(model, folder)


def pack(dense, kept):
    """Entries of a weight of [d_input, d_output] of which the blocks in `kept` [rows, cols] are stored."""
    rows, cols = kept.shape
    padded = np.zeros((rows * BLOCK, cols * BLOCK), dense.dtype)
    padded[: dense.shape[0], : dense.shape[1]] = dense
    blocks = padded.reshape(rows, BLOCK, cols, BLOCK).transpose(2, 0, 1, 3)
    kept = kept.T  # column by column
    return {
        "values": np.ascontiguousarray(blocks[kept]),
        "row_idx": np.nonzero(kept)[1].astype(np.int32),
        "col_ptr": np.concatenate([[0], kept.sum(1).cumsum()]).astype(np.int32),
        "layout": np.array([1, BLOCK, *dense.shape, 0], np.int32),
    }


def packed():
    folder = HERE / "packed"
    config = LlamaConfig(**LLAMA, tie_word_embeddings=False)
    model = random(LlamaForCausalLM(config), 4)
    model.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    generator = np.random.default_rng(6)
    names = [f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")]
    names += ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head"]
    state = model.state_dict()
    for name in names:
        dense = stored.pop(f"{name}.weight").numpy().T
        grid = [-(-side // BLOCK) for side in dense.shape]
        kept = generator.random(grid) < 0.5
        kept[:, 1] = False  # an empty block column
        mask = np.kron(kept, np.ones((BLOCK, BLOCK)))[: dense.shape[0], : dense.shape[1]]
        for leaf, entry in pack(dense, kept).items():
            stored[f"{name}.weight.{leaf}"] = torch.from_numpy(entry)
        state[f"{name}.weight"].copy_(torch.from_numpy((dense * mask).T))
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    expect(model, folder)


if __name__ == "__main__":
    for make in (llama3, tied, mistral, gpt2, packed, qwen2, qwen3, gemma3, smollm3, yarn, dynamic, longrope):
        make()
