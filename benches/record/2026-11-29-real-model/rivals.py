"""Tokens a second of PyTorch, by the measure of `blast bench`: a prompt of 256 tokens, then 64 one by one, batch 1.

    pip install torch transformers
    python rivals.py MODEL [threads=2] [rounds=5]
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM

folder, threads, rounds = sys.argv[1], *(int(a) for a in (sys.argv[2:4] + ["2", "5"][len(sys.argv) - 2 :]))
torch.set_num_threads(threads)
for dtype in (torch.float32, torch.bfloat16):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    prompt = torch.arange(256)[None] * 31 % model.config.vocab_size
    prefill, decode = [], []
    with torch.no_grad():
        for _ in range(rounds + 2):
            begin = time.perf_counter()
            out = model(prompt, use_cache=True, logits_to_keep=1)
            prefill.append(256 / (time.perf_counter() - begin))
            for at in range(64):
                begin = time.perf_counter()
                token = torch.tensor([[(256 + at) * 31 % model.config.vocab_size]])
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
                decode.append(1 / (time.perf_counter() - begin))
    spread = lambda all: [sorted(all)[int(len(all) * q)] for q in (0.5, 0.25, 0.75)]
    print(json.dumps({"engine": f"torch {torch.__version__}", "dtype": str(dtype), "prefill": spread(prefill[2:]), "decode": spread(decode[128:])}))
